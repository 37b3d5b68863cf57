//! Loopback ports: finds a free one, and reports a requested one that is busy.
//!
//! Another program may take a free port before the server binds it. Only the server could close
//! that gap, so a start on a free port is repeated with another one.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

use crate::Error;

/// Losing a free port is rare; after this many losses in a row something else is wrong.
const ATTEMPTS: usize = 3;

/// A loopback TCP port on which no program listens now.
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

/// Refuses a port on which a program listens.
pub(crate) fn ensure_free(port: u16) -> Result<(), Error> {
    listen(port).map(drop)
}

/// Starts a server on the requested port, or on a free one, and on another if it loses the free
/// one.
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

/// Turns the end of a server into [`Error::PortTaken`] if another program has its port, or had it:
/// an outgoing connection may take it for a moment.
pub(crate) fn blame_port<T>(outcome: Result<T, Error>, port: u16) -> Result<T, Error> {
    let was_taken = |log: &str| log.to_lowercase().contains("address already in use");
    match outcome {
        Err(Error::Ended { log_tail, .. }) if was_taken(&log_tail) => {
            Err(Error::PortTaken { port })
        }
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
    use std::{cell::Cell, process::ExitStatus};

    use super::*;

    #[test]
    fn busy_port_is_refused_by_number() {
        let holder = listen(0).unwrap();
        let busy = holder.local_addr().unwrap().port();
        assert!(matches!(ensure_free(busy), Err(Error::PortTaken { port }) if port == busy));
    }

    #[test]
    fn port_lost_for_a_moment_is_blamed() {
        let port = free_port().unwrap();
        let ended = Err::<(), _>(Error::Ended {
            program: "nats-server",
            status: ExitStatus::default(),
            log_tail: format!("listen tcp 127.0.0.1:{port}: bind: address already in use"),
        });
        assert!(matches!(
            blame_port(ended, port),
            Err(Error::PortTaken { .. })
        ));
    }

    #[tokio::test]
    async fn only_free_port_is_replaced() {
        let tries = Cell::new(0);
        let lost_once = async |port| {
            tries.set(tries.get() + 1);
            if tries.get() == 1 {
                Err(Error::PortTaken { port })
            } else {
                Ok(port)
            }
        };
        assert!(start_on(None, &lost_once).await.is_ok());
        tries.set(0);
        assert!(start_on(Some(1), &lost_once).await.is_err());
    }
}
