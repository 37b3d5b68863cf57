//! A connection whose caller has to begin within a deadline. Neither hyper nor tonic waits with one for the preface of
//! HTTP/2, and only after it is a caller asked whether it is still there.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

/// A connection on which reading fails unless so many bytes have come in time.
#[derive(Debug)]
pub(crate) struct Prompt<C> {
    connection: C,
    /// `None` once they have come: from then on it costs a look.
    awaited: Option<Awaited>,
}

#[derive(Debug)]
struct Awaited {
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<C> Prompt<C> {
    /// `connection`, on which the first `bytes` have to come within `deadline`.
    pub(crate) fn new(connection: C, bytes: usize, deadline: Duration) -> Self {
        let deadline = Box::pin(sleep(deadline));
        Self {
            connection,
            awaited: Some(Awaited { bytes, deadline }),
        }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Prompt<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let known = buffer.filled().len();
        let read = Pin::new(&mut this.connection).poll_read(context, buffer);
        let Some(awaited) = &mut this.awaited else {
            return read;
        };
        if read.is_pending() {
            ready!(awaited.deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        awaited.bytes = awaited.bytes.saturating_sub(buffer.filled().len() - known);
        if awaited.bytes == 0 {
            this.awaited = None;
        }
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Prompt<C> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().connection).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().connection).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }
}

impl<C: Connected> Connected for Prompt<C> {
    type ConnectInfo = C::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.connection.connect_info()
    }
}
