//! Binds and serves the two edges of a service. Listeners are bound before anything else starts, so a busy port is a
//! clear error and port 0 works for tests.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::Response};
use futures::{FutureExt, future::BoxFuture, stream};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};
use tracing::info;

use crate::{
    http::HttpEdge,
    prompt::Prompt,
    shards::{self, Inbox, Shards},
    shutdown,
    turns::Turns,
};

/// How long a connection may be open, from its start or its last answer on, without a complete head of a request; at most a
/// quarter longer. One that is idle ends by it too, and so does one that sends a byte now and then to keep us busy.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);

/// With this a connection of HTTP/2 begins (RFC 9113, 3.4). It may take as long as a head.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often a gRPC connection is asked whether its caller is still there. Streams without a deadline end with it.
const PING_EVERY: Duration = Duration::from_secs(30);

/// How long a caller may take to answer that.
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
    Http(#[from] std::io::Error),
    /// The gRPC edge.
    #[error("the gRPC edge failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
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

/// Serves both edges until `token` is cancelled, then lets open requests finish within the drain deadline.
///
/// # Errors
/// When an edge fails.
pub async fn serve(
    listeners: Listeners,
    http: HttpEdge,
    grpc: Routes,
    token: CancellationToken,
) -> Result<(), ServeError> {
    let at = listeners.addresses()?;
    info!(http = %at.http, grpc = %at.grpc, "serving HTTP on {} and gRPC on {}", at.http, at.grpc);
    let shards = Shards::start().map_err(ServeError::Http)?;
    let http_edge = shards.serve(listeners.http, &token, |inbox| {
        serve_http_shard(inbox, http.clone(), token.clone())
    });
    let grpc_edge = shards.serve(listeners.grpc, &token, |inbox| {
        serve_grpc_shard(inbox, grpc.clone(), token.clone())
    });
    let both = async { tokio::try_join!(http_edge, grpc_edge).map(|_| ()) };
    shutdown::with_deadline(&token, both)
        .await
        .unwrap_or(Ok(()))
}

/// The connections of the HTTP edge that fall to one shard. axum's own `serve` would find out first whether a connection
/// speaks HTTP/1 or HTTP/2, and pay for that with every request.
async fn serve_http_shard(
    mut inbox: Inbox,
    http: HttpEdge,
    token: CancellationToken,
) -> Result<(), ServeError> {
    let open = GracefulShutdown::new();
    while let Some(Some(connection)) = token.run_until_cancelled(shards::next_of(&mut inbox)).await
    {
        let turns = Arc::new(Turns::default());
        let answer = answering(http.clone(), Arc::clone(&turns));
        let connection = TokioIo::new(connection);
        let served = http1::Builder::new().serve_connection(connection, service_fn(answer));
        let served = open.watch(served);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                // It fails when the caller breaks off, which is the caller's own affair.
                _ = served => {}
                () = turns.silence(HEAD_DEADLINE) => {}
            }
        });
    }
    open.shutdown().await;
    Ok(())
}

/// Answers the requests of one connection, and keeps count of whose turn it is.
fn answering(
    http: HttpEdge,
    turns: Arc<Turns>,
) -> impl Fn(Request<Incoming>) -> BoxFuture<'static, Result<Response, Infallible>> {
    move |request| {
        turns.pass();
        let answer = http.answer(request.map(Body::new));
        let turns = Arc::clone(&turns);
        let passing = answer.inspect(move |_| turns.pass());
        passing.map(Ok).boxed()
    }
}

async fn serve_grpc_shard(
    inbox: Inbox,
    grpc: Routes,
    token: CancellationToken,
) -> Result<(), ServeError> {
    let connections = stream::unfold(inbox, async |mut inbox| {
        let connection = shards::next_of(&mut inbox).await?;
        let connection = Prompt::new(connection, PREFACE.len(), HEAD_DEADLINE);
        Some((Ok::<_, std::io::Error>(connection), inbox))
    });
    Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_DEADLINE))
        .add_routes(grpc)
        .serve_with_incoming_shutdown(connections, token.cancelled_owned())
        .await?;
    Ok(())
}

/// Serves HTTP alone, and without shards, until `token` is cancelled.
///
/// # Errors
/// When the edge fails.
pub async fn serve_http(
    listener: TcpListener,
    http: HttpEdge,
    token: CancellationToken,
) -> std::io::Result<()> {
    use axum::serve::ListenerExt;
    let answer = async move |request| http.answer(request).await;
    let routes = Router::new().fallback(answer);
    let listener = listener.tap_io(|stream| {
        // Small answers must not wait for an acknowledgement; without this the worst case is only slower.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, routes)
        .with_graceful_shutdown(token.cancelled_owned())
        .await
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::mpsc,
        time::{Instant, sleep, timeout},
    };

    use prometheus_client::registry::Registry;
    use utoipa::openapi::OpenApi;

    use super::*;
    use crate::{clock::MarketClock, health::Health, http, metrics::EdgeMetrics};

    async fn http_shard(inbox: Inbox) -> Result<(), ServeError> {
        let routes = Router::new().route("/", get(async || "well"));
        let http = http::edge(
            (routes, OpenApi::default()),
            Health::new(MarketClock::real_time()),
            Registry::default(),
            EdgeMetrics::register(&mut Registry::default()),
        );
        serve_http_shard(inbox, http, CancellationToken::new()).await
    }

    async fn grpc_shard(inbox: Inbox) -> Result<(), ServeError> {
        serve_grpc_shard(inbox, Routes::default(), CancellationToken::new()).await
    }

    /// A connection that `shard` serves; time passes as soon as nobody has anything to do.
    async fn served<F>(shard: impl FnOnce(Inbox) -> F) -> TcpStream
    where
        F: Future<Output = Result<(), ServeError>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (accepted, _) = listener.accept().await.unwrap();
        let (sender, inbox) = mpsc::channel(1);
        sender.send(accepted.into_std().unwrap()).await.unwrap();
        let shard = shard(inbox);
        tokio::spawn(async move {
            // As long as the sender lives, the shard waits for more.
            let _sender = sender;
            shard.await
        });
        client.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_comes_byte_by_byte_is_not_waited_for_without_end() {
        let mut connection = served(http_shard).await;
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
    async fn a_connection_that_says_nothing_ends() {
        let mut connection = served(http_shard).await;
        let begun = Instant::now();
        assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
        assert!(begun.elapsed() >= HEAD_DEADLINE);
    }

    /// Waits for the end of a connection, by a reset or otherwise; the other side may tell its settings before.
    async fn ends(connection: &mut TcpStream) {
        let mut told = Vec::new();
        let end = timeout(2 * HEAD_DEADLINE, connection.read_to_end(&mut told));
        assert!(end.await.is_ok(), "it does not end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_grpc_connection_that_does_not_begin_ends() {
        for beginning in [&[], &PREFACE[..PREFACE.len() - 1]] {
            let mut connection = served(grpc_shard).await;
            let begun = Instant::now();
            connection.write_all(beginning).await.unwrap();
            ends(&mut connection).await;
            let bound = HEAD_DEADLINE..HEAD_DEADLINE + Duration::from_secs(5);
            let lasted = begun.elapsed();
            assert!(bound.contains(&lasted), "{lasted:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_grpc_connection_that_has_begun_may_be_idle() {
        let mut connection = served(grpc_shard).await;
        let no_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        connection.write_all(PREFACE).await.unwrap();
        connection.write_all(&no_settings).await.unwrap();
        let begun = Instant::now();
        ends(&mut connection).await;
        let asked_in_vain = PING_EVERY + PING_DEADLINE;
        let bound = asked_in_vain..asked_in_vain + Duration::from_secs(5);
        let lasted = begun.elapsed();
        assert!(bound.contains(&lasted), "{lasted:?}");
    }
}
