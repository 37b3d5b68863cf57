//! A gRPC channel for shards. What answers a call is a task of the connection that it is made on, and that task lives on the
//! thread that opened the connection: were there one connection for all shards, every call of all but one would cross to
//! another thread and back. So each thread has a connection of its own, opened by its first call, and by the first after it
//! broke.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt, TryFutureExt,
    future::{BoxFuture, Shared},
};
use http::{Request, Response, Uri};
use thread_local::ThreadLocal;
use tokio::time::timeout;
use tonic::{ConnectError, TimeoutExpired, body::Body};

use crate::{balance::BoxError, connection::Connection, grpc::CONNECT_DEADLINE};

/// A channel to one address for each thread that calls it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ShardChannel(Arc<Channels>);

#[derive(Debug)]
struct Channels {
    address: SocketAddr,
    origin: Uri,
    deadline: Duration,
    opened: ThreadLocal<Mutex<Option<Opening>>>,
}

/// A connection that is being made, or was: those who wait for it share it.
type Opening = Shared<BoxFuture<'static, Result<Connection, Arc<io::Error>>>>;

impl ShardChannel {
    /// Opens nothing yet; nobody has to listen at `address`, which calls know as `origin`. A call ends within `deadline`.
    pub(crate) fn to(address: SocketAddr, origin: Uri, deadline: Duration) -> Self {
        Self(Arc::new(Channels {
            address,
            origin,
            deadline,
            opened: ThreadLocal::new(),
        }))
    }

    /// Makes a call, on the connection of this thread.
    ///
    /// # Errors
    /// When there is no connection, it breaks, or the deadline passes.
    pub(crate) async fn call(self, request: Request<Bytes>) -> Result<Response<Body>, BoxError> {
        let call = async {
            let connection = self.0.connection().await?;
            connection.call(&self.0.origin, request).await
        };
        let answer = timeout(self.0.deadline, call).await;
        answer.unwrap_or_else(|_passed| Err(TimeoutExpired(()).into()))
    }
}

impl Channels {
    /// The connection of this thread, or a new one where that one is closing.
    async fn connection(&self) -> Result<Connection, ConnectError> {
        let here = self.opened.get_or_default();
        let opening = self.opening(here);
        if let Ok(ready) = opened(opening.clone()).await?.ready().await {
            return Ok(ready);
        }
        forget(here, &opening);
        let another = opened(self.opening(here)).await?.ready().await;
        another.map_err(|error| ConnectError(error.into()))
    }

    /// What is known to have failed is begun again.
    fn opening(&self, here: &Mutex<Option<Opening>>) -> Opening {
        let mut here = here.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opening) = &*here
            && !matches!(opening.peek(), Some(Err(_)))
        {
            return opening.clone();
        }
        // Half of the deadline: a host that cannot be reached fails as away, before the deadline of the call makes it look slow.
        let limit = CONNECT_DEADLINE.min(self.deadline / 2);
        let opening = Connection::open(self.address, limit, self.deadline).map_err(Arc::new);
        here.insert(opening.boxed().shared()).clone()
    }
}

async fn opened(opening: Opening) -> Result<Connection, ConnectError> {
    opening.await.map_err(|error| ConnectError(error.into()))
}

/// Unless somebody else has begun another one since.
fn forget(here: &Mutex<Option<Opening>>, closed: &Opening) {
    let mut here = here.lock().unwrap_or_else(PoisonError::into_inner);
    here.take_if(|opening| opening.ptr_eq(closed));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use futures::future::join_all;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    /// A callee that answers `calls` calls on a connection, and how many connections it was called on.
    async fn callee(calls: usize) -> (ShardChannel, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                counted.fetch_add(1, Relaxed);
                tokio::spawn(answer(connection, calls));
            }
        });
        let origin = Uri::from_static("http://driver-management:7201");
        (ShardChannel::to(address, origin, DEADLINE), connections)
    }

    async fn answer(connection: TcpStream, calls: usize) {
        let mut connection = h2::server::handshake(connection).await.unwrap();
        let mut answered = 0;
        while let Some(call) = connection.accept().await {
            let (_, mut answer) = call.unwrap();
            answer.send_response(Response::new(()), true).unwrap();
            answered += 1;
            if answered == calls {
                connection.graceful_shutdown();
            }
        }
    }

    async fn call(channel: &ShardChannel) -> Result<Response<Body>, BoxError> {
        let request = Request::post("/surge.v1.SupplyService/GetSupply");
        let request = request.body(Bytes::new()).unwrap();
        channel.clone().call(request).await
    }

    #[tokio::test]
    async fn calls_that_begin_together_share_a_connection() {
        let (channel, connections) = callee(usize::MAX).await;
        let answers = join_all((0..20).map(|_| call(&channel))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert_eq!(connections.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn a_callee_that_closes_is_called_on_another_connection() {
        let (channel, connections) = callee(1).await;
        for _ in 0..10 {
            call(&channel).await.unwrap();
        }
        assert!(connections.load(Relaxed) > 1);
    }

    #[tokio::test]
    async fn who_could_not_be_reached_is_tried_again() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = gone.local_addr().unwrap();
        drop(gone);
        let origin = Uri::from_static("http://driver-management:7201");
        let channel = ShardChannel::to(address, origin, DEADLINE);
        for _ in 0..2 {
            assert!(call(&channel).await.unwrap_err().is::<ConnectError>());
        }
        let back = TcpListener::bind(address).await.unwrap();
        tokio::spawn(async move { answer(back.accept().await.unwrap().0, 1).await });
        call(&channel).await.unwrap();
    }
}
