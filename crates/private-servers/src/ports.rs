//! Loopback ports: finding a free one, and saying clearly that a requested one is not.
//!
//! Between choosing a free port and the server binding it another program may take it. Nothing can
//! close that gap from outside the server, so a start on a free port is tried again when it
//! happens.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

use crate::Error;

/// Losing the race for a free port is rare; losing it this often in a row means something else is
/// wrong.
const ATTEMPTS: usize = 3;

/// A loopback TCP port that nobody listens on at this moment.
///
/// # Errors
/// [`Error::Port`] when the operating system has none left.
pub fn free_port() -> Result<u16, Error> {
    let listener = listen(0)?;
    let address = listener
        .local_addr()
        .map_err(|source| Error::Port { port: 0, source })?;
    Ok(address.port())
}

/// Refuses a port that somebody listens on.
pub(crate) fn ensure_free(port: u16) -> Result<(), Error> {
    listen(port).map(drop)
}

/// Starts something on the requested port, or on a free one, trying others while the free one is
/// snatched away.
pub(crate) async fn start_on<T>(
    requested: Option<u16>,
    start: impl AsyncFn(u16) -> Result<T, Error>,
) -> Result<T, Error> {
    if let Some(port) = requested {
        return start(port).await;
    }
    for _ in 1..ATTEMPTS {
        match start(free_port()?).await {
            Err(Error::PortTaken { .. }) => {}
            outcome => return outcome,
        }
    }
    start(free_port()?).await
}

/// A server that ended at once because somebody else has its port is a matter of the port.
pub(crate) fn blame_port<T>(outcome: Result<T, Error>, port: u16) -> Result<T, Error> {
    match outcome {
        Err(ended @ Error::Ended { .. }) => ensure_free(port).and(Err(ended)),
        other => other,
    }
}

fn listen(port: u16) -> Result<TcpListener, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::PortTaken { port },
        _ => Error::Port { port, source },
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_busy_port_is_refused_by_its_number() {
        let holder = listen(0).unwrap();
        let busy = holder.local_addr().unwrap().port();
        assert!(matches!(ensure_free(busy), Err(Error::PortTaken { port }) if port == busy));
    }

    #[tokio::test]
    async fn a_snatched_free_port_is_replaced_but_a_requested_one_is_not() {
        let tries = Cell::new(0);
        let snatched_once = async |port| {
            tries.set(tries.get() + 1);
            if tries.get() == 1 {
                Err(Error::PortTaken { port })
            } else {
                Ok(port)
            }
        };
        assert!(start_on(None, &snatched_once).await.is_ok());
        tries.set(0);
        assert!(start_on(Some(1), &snatched_once).await.is_err());
    }
}
