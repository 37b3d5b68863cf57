//! One HTTP/2 connection to a callee, for unary gRPC calls. tonic's channel hands a call from task to task: to a buffer, a
//! dispatcher and one that waits for the answer, each of which has to be woken. Here the caller itself puts its request on
//! the connection and is woken by its answer.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, RecvStream,
    client::{self, SendRequest},
};
use http::{HeaderValue, Request, Response, Uri, header::USER_AGENT};
use hyper::body::Frame;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{TimeoutExpired, body::Body};

use crate::balance::BoxError;

/// What may be on its way to us unread: as much as hyper allows.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;

/// How many calls may be under way before the callee has said how many it wants.
const STREAMS_AT_FIRST: usize = 100;

/// A callee that does not answer a ping is gone, or hangs: without pings that would show only when something is sent.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_DEADLINE: Duration = Duration::from_secs(2);

static CALLER: HeaderValue = HeaderValue::from_static(concat!("surge/", env!("CARGO_PKG_VERSION")));

/// An open connection. Cheap to clone; it is closed when the last clone is gone and its calls are done.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    is_silent: Arc<AtomicBool>,
    _open: Arc<DropGuard>,
}

impl Connection {
    /// Connects to `address` within `limit`. Calls that are under way when it is dropped have as long as `linger`.
    ///
    /// # Errors
    /// When nobody listens there, or not in time.
    pub(crate) async fn open(
        address: SocketAddr,
        limit: Duration,
        linger: Duration,
    ) -> io::Result<Self> {
        let stream = timeout(limit, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let handshake = client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(STREAMS_AT_FIRST)
            .enable_push(false)
            .handshake(stream);
        let (requests, driver) = handshake.await.map_err(io::Error::other)?;
        let (end, is_silent) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        tokio::spawn(drive(driver, end.clone(), Arc::clone(&is_silent), linger));
        Ok(Self {
            requests,
            is_silent,
            _open: Arc::new(end.drop_guard()),
        })
    }

    /// Ready for one more call.
    ///
    /// # Errors
    /// When the connection is closed, or closing.
    pub(crate) async fn ready(self) -> Result<Self, h2::Error> {
        let requests = self.requests.ready().await?;
        Ok(Self { requests, ..self })
    }

    /// Makes a call on a connection that is ready.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(crate) async fn call(
        mut self,
        origin: &Uri,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, BoxError> {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(addressed(head, origin)?, ());
        let (answer, mut sending) = self.requests.send_request(request, false)?;
        sending.send_data(body, true)?;
        match answer.await {
            Ok(answer) => Ok(answer.map(|body| Body::new(Answer(body)))),
            Err(_) if self.is_silent.load(Relaxed) => Err(TimeoutExpired(()).into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads and writes, until the connection breaks, the callee is silent, or nobody wants it any more.
async fn drive(
    mut connection: client::Connection<TcpStream>,
    end: CancellationToken,
    is_silent: Arc<AtomicBool>,
    linger: Duration,
) {
    let pings = connection.ping_pong().expect("it is asked for once");
    tokio::select! {
        // An error is told to the calls that it breaks.
        _ = &mut connection => return,
        () = silence(pings) => return is_silent.store(true, Relaxed),
        () = end.cancelled() => {}
    }
    let _ = timeout(linger, connection).await;
}

/// The head of a request, with what HTTP/2 and gRPC want to know beside the path.
fn addressed(
    mut head: http::request::Parts,
    origin: &Uri,
) -> Result<http::request::Parts, http::Error> {
    let mut uri = head.uri.into_parts();
    uri.scheme = origin.scheme().cloned();
    uri.authority = origin.authority().cloned();
    head.uri = Uri::from_parts(uri)?;
    head.headers.insert(USER_AGENT, CALLER.clone());
    Ok(head)
}

/// Ends when a ping was not answered in time.
async fn silence(mut pings: PingPong) {
    loop {
        sleep(PING_EVERY).await;
        match timeout(PING_DEADLINE, pings.ping(Ping::opaque())).await {
            Ok(Ok(_pong)) => {}
            // The connection is broken, which it tells itself.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// The body of an answer, as tonic reads it.
struct Answer(RecvStream);

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(data) = ready!(self.0.poll_data(context)) {
            let data = data.inspect(|data| {
                // It fails when the stream is closed, and then there is nothing to keep open.
                let _ = self.0.flow_control().release_capacity(data.len());
            });
            return Poll::Ready(Some(data.map(Frame::data)));
        }
        let trailers = ready!(self.0.poll_trailers(context)).transpose();
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, time::Instant};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_callee_that_answers_no_ping_ends_the_calls_that_wait_for_it() {
        let callee = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = callee.local_addr().unwrap();
        let begun = Instant::now();
        let opened = Connection::open(address, Duration::MAX, Duration::MAX).await;
        let ready = opened.unwrap().ready().await.unwrap();
        let origin = Uri::from_static("http://driver-management:7201");
        let answer = ready.call(&origin, Request::new(Bytes::new())).await;
        assert!(answer.unwrap_err().is::<TimeoutExpired>());
        assert_eq!(
            begun.elapsed().as_secs(),
            (PING_EVERY + PING_DEADLINE).as_secs()
        );
    }
}
