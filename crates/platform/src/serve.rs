//! Binds and serves the two edges of a service.
//!
//! Listeners are bound before anything else starts, so that a busy port is a clear error and tests
//! can use port 0. Connections are bounded in time: one that sends no complete request head within
//! [`HEAD_DEADLINE`] is closed, and a gRPC caller that answers no ping is gone.

use std::{io, net::SocketAddr, pin::pin, time::Duration};

use axum::{Router, serve::Listener};
use futures::{StreamExt, TryFutureExt};
use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::server::TcpIncoming};
use tracing::info;

use crate::shutdown;

/// How long a caller may take for the complete head of a request, counted from the start of the
/// connection or from the last answer. It is also the idle (keep-alive) timeout.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);

/// The first bytes of every HTTP/2 connection (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// gRPC connections that may wait for their preface at the same time; more wait in the listener's
/// backlog.
const SILENT_CONNECTIONS: usize = 4_096;

/// How often the server pings a gRPC connection. Streams without a deadline end with a caller that
/// is gone.
const PING_EVERY: Duration = Duration::from_secs(30);

/// How long a caller may take to answer a ping.
const PING_DEADLINE: Duration = Duration::from_secs(10);

/// The two bound listeners of a service.
#[derive(Debug)]
pub struct Listeners {
    http: TcpListener,
    grpc: TcpListener,
}

/// Where a service can be reached.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// REST, health and metrics.
    pub http: SocketAddr,
    /// gRPC.
    pub grpc: SocketAddr,
}

/// An address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{variable}={address} cannot be bound ({cause}); choose another port")]
pub struct BindError {
    variable: &'static str,
    address: SocketAddr,
    cause: std::io::Error,
}

/// The edges failed while serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The HTTP edge.
    #[error("the HTTP edge failed: {0}")]
    Http(#[from] io::Error),
    /// The gRPC edge.
    #[error("the gRPC edge failed: {0}")]
    Grpc(io::Error),
}

impl Listeners {
    /// Binds both addresses.
    ///
    /// # Errors
    /// Names the variable whose port is busy.
    pub async fn bind(http: SocketAddr, grpc: SocketAddr) -> Result<Self, BindError> {
        Ok(Self {
            http: bind("HTTP_ADDR", http).await?,
            grpc: bind("GRPC_ADDR", grpc).await?,
        })
    }

    /// Where the listeners really are.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn addresses(&self) -> std::io::Result<Addresses> {
        Ok(Addresses {
            http: self.http.local_addr()?,
            grpc: self.grpc.local_addr()?,
        })
    }
}

/// Binds one address, which `variable` names.
///
/// # Errors
/// Names the variable if its port is busy.
pub async fn bind(variable: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|cause| BindError {
        variable,
        address,
        cause,
    })
}

/// Serves both edges until `token` is cancelled, then lets open requests finish within the drain
/// deadline.
///
/// # Errors
/// When an edge fails.
pub async fn serve(
    listeners: Listeners,
    http: Router,
    grpc: Routes,
    token: CancellationToken,
) -> Result<(), ServeError> {
    let at = listeners.addresses()?;
    info!(http = %at.http, grpc = %at.grpc, "serving HTTP on {} and gRPC on {}", at.http, at.grpc);
    let http = serve_http(listeners.http, http, token.clone()).map_err(ServeError::Http);
    let grpc = serve_grpc(listeners.grpc, grpc, token.clone()).map_err(ServeError::Grpc);
    let both = async { tokio::try_join!(http, grpc).map(|_| ()) };
    shutdown::with_deadline(&token, both)
        .await
        .unwrap_or(Ok(()))
}

/// Serves HTTP until `token` is cancelled. This is `axum::serve` with a deadline for request heads,
/// which that has not.
///
/// # Errors
/// None today.
pub async fn serve_http(
    mut listener: TcpListener,
    routes: Router,
    token: CancellationToken,
) -> io::Result<()> {
    let open = GracefulShutdown::new();
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE);
    // Not the listener's own `accept`: this one goes on after errors such as too many open files.
    while let Some((stream, _)) = token
        .run_until_cancelled(Listener::accept(&mut listener))
        .await
    {
        // Small answers must not wait for an acknowledgement; without this the worst case is only
        // slower.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(routes.clone());
        let connection = server.serve_connection(TokioIo::new(stream), service);
        // It fails when the caller breaks off, which is the caller's own affair.
        tokio::spawn(open.watch(connection));
    }
    open.shutdown().await;
    Ok(())
}

/// Serves gRPC until `token` is cancelled. This is tonic's server without the layers that it puts
/// outside of our own.
async fn serve_grpc(
    listener: TcpListener,
    routes: Routes,
    token: CancellationToken,
) -> io::Result<()> {
    let open = GracefulShutdown::new();
    let mut server = http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_DEADLINE);
    let routes = routes.prepare().into_axum_router();
    let connections = TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .map(|connection| async { with_preface(connection?).await })
        .buffer_unordered(SILENT_CONNECTIONS);
    let mut connections = pin!(connections);
    while let Some(Some(connection)) = token.run_until_cancelled(connections.next()).await {
        // One that sends no preface, or is gone before it does, is its caller's own affair.
        let Ok(stream) = connection else { continue };
        let service = TowerToHyperService::new(routes.clone());
        let connection = server.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(open.watch(connection));
    }
    open.shutdown().await;
    Ok(())
}

/// The connection once its caller has sent the preface. The server pings only connections that have
/// begun.
async fn with_preface(connection: TcpStream) -> io::Result<TcpStream> {
    let begun = async {
        let mut first = [0; PREFACE.len()];
        loop {
            match connection.peek(&mut first).await? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                read if read == PREFACE.len() => return Ok(()),
                // Peeking does not wait for more than is there.
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(HEAD_DEADLINE, begun).await??;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::routing::{get, post};
    use prometheus_client::registry::Registry;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };
    use tonic::Code;

    use super::*;
    use crate::{grpc, metrics::EdgeMetrics};

    /// A connection to an edge; time passes as soon as nobody has anything to do.
    async fn connect<F, E>(edge: impl FnOnce(TcpListener) -> F) -> TcpStream
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(edge(listener));
        TcpStream::connect(address).await.unwrap()
    }

    async fn connect_http() -> TcpStream {
        let routes = Router::new().route("/", get(async || "well"));
        connect(|listener| serve_http(listener, routes, CancellationToken::new())).await
    }

    async fn connect_grpc() -> TcpStream {
        let token = CancellationToken::new();
        connect(|listener| serve_grpc(listener, Routes::default(), token)).await
    }

    #[tokio::test(start_paused = true)]
    async fn slow_request_head_ends_at_deadline() {
        let mut connection = connect_http().await;
        let begun = Instant::now();
        let mut head = b"GET / HTTP/1.1\r\nhost: x\r\nslowly: ".to_vec();
        head.resize(1_000, b'a');
        for byte in head {
            // It ends in a reset or a broken pipe once the other side is gone.
            if connection.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        let lasted = begun.elapsed();
        let bound = HEAD_DEADLINE..HEAD_DEADLINE * 5 / 4;
        assert!(bound.contains(&lasted), "{lasted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connection_ends_at_deadline() {
        let mut connection = connect_http().await;
        let begun = Instant::now();
        ends(&mut connection).await;
        assert!(begun.elapsed() >= HEAD_DEADLINE);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connection_ends_at_deadline() {
        let mut connection = connect_http().await;
        connection
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let begun = Instant::now();
        ends(&mut connection).await;
        assert!(begun.elapsed() >= HEAD_DEADLINE);
    }

    /// Waits for the end of a connection, by a reset or otherwise; the other side may send its
    /// settings before.
    async fn ends(connection: &mut TcpStream) {
        let mut answer = Vec::new();
        let end = timeout(2 * HEAD_DEADLINE, connection.read_to_end(&mut answer));
        assert!(end.await.is_ok(), "it does not end");
    }

    #[tokio::test(start_paused = true)]
    async fn grpc_connection_without_preface_ends() {
        for beginning in [&[], &PREFACE[..PREFACE.len() - 1]] {
            let mut connection = connect_grpc().await;
            let begun = Instant::now();
            connection.write_all(beginning).await.unwrap();
            ends(&mut connection).await;
            let bound = HEAD_DEADLINE..HEAD_DEADLINE + Duration::from_secs(5);
            let lasted = begun.elapsed();
            assert!(bound.contains(&lasted), "{lasted:?}");
        }
    }

    /// Over the wire, because tonic's server would answer before our layers do.
    #[tokio::test(start_paused = true)]
    async fn callers_timeout_is_deadline_exceeded() {
        let hangs = Router::new().route("/surge.v1.Any/Call", post(pending::<String>));
        let metrics = EdgeMetrics::register(&mut Registry::default());
        let routes = grpc::edge(Routes::from(hangs), metrics);
        let token = CancellationToken::new();
        let stream = connect(|listener| serve_grpc(listener, routes, token)).await;
        let caller = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut caller, connection) = caller.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let call = http::Request::post("http://any/surge.v1.Any/Call");
        let call = call.header("grpc-timeout", "50m").body(String::new());
        let answer = caller.send_request(call.unwrap()).await.unwrap();
        let code = Code::DeadlineExceeded as i32;
        assert_eq!(answer.headers()["grpc-status"], code.to_string());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_grpc_connection_lives_while_pinged() {
        let mut connection = connect_grpc().await;
        let no_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        connection.write_all(PREFACE).await.unwrap();
        connection.write_all(&no_settings).await.unwrap();
        let begun = Instant::now();
        ends(&mut connection).await;
        let pinged_in_vain = PING_EVERY + PING_DEADLINE;
        let bound = pinged_in_vain..pinged_in_vain + Duration::from_secs(5);
        let lasted = begun.elapsed();
        assert!(bound.contains(&lasted), "{lasted:?}");
    }
}
