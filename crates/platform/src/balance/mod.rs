//! Client-side load balancing of gRPC. HTTP/2 keeps one connection for everything, so a caller that connects to a name of
//! many replicas stays with one of them for good, and whatever stands in between balances connections, not calls. So the
//! caller looks the name up itself, again and again, holds a connection to each address, and chooses one for each call.
//!
//! tonic's own `Channel::balance_channel` does not serve: to it every connection is equally loaded, and one that cannot be
//! made counts as ready and fails its share of the calls. Here a call goes to the less busy of two random replicas, one
//! that failed rests, and a call that never left is made elsewhere. A callee with one fixed address has none of this.

mod attempt;
mod names;
mod pool;
mod replica;
mod settings;

use std::{
    error::Error,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use http_body_util::BodyExt;
use tonic::{Status, body::Body};
use tower::Service;

pub use self::{
    names::{Host, LookUp, system},
    settings::{Calls, Settings, UrlError},
};
use self::{pool::Pool, settings::Target};
use crate::shard_channel::ShardChannel;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// A channel to one callee or to its replicas, for unary calls: a request is held until it is answered.
#[derive(Clone, Debug)]
pub struct BalancedChannel(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// One address that never changes: a channel and nothing else, because its cost is that of every quote.
    Fixed(ShardChannel),
    Replicas(Arc<Pool>),
}

impl BalancedChannel {
    /// Opens a channel to `urls`, one or several with commas between, when the first call needs it.
    ///
    /// # Errors
    /// When one of them is no URL of a gRPC service.
    pub fn open(urls: &str, settings: Settings) -> Result<Self, UrlError> {
        let targets = urls.split(',').map(str::trim).map(Target::parse);
        let targets: Vec<Target> = targets.collect::<Result<_, _>>()?;
        Ok(Self(match &targets[..] {
            [only] if let Some(address) = only.address() => Kind::Fixed(ShardChannel::to(
                address,
                only.url.clone(),
                settings.deadline,
            )),
            _ => Kind::Replicas(Pool::open(targets, settings)),
        }))
    }
}

impl Service<Request<Body>> for BalancedChannel {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.0.clone() {
            Kind::Fixed(channel) => {
                async move { channel.call(whole(request).await?).await }.boxed()
            }
            Kind::Replicas(pool) => async move { pool.call(whole(request).await?).await }.boxed(),
        }
    }
}

/// A request that can be made several times.
async fn whole(request: Request<Body>) -> Result<Request<Bytes>, Status> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Request::from_parts(head, body))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn open(urls: &str) -> Result<BalancedChannel, UrlError> {
        BalancedChannel::open(urls, Settings::new(Duration::from_secs(1), Calls::Read))
    }

    #[tokio::test]
    async fn one_address_is_called_without_a_detour() {
        for fixed in ["http://127.0.0.1:7201", "http://[::1]:7201"] {
            assert!(matches!(open(fixed).unwrap().0, Kind::Fixed(_)), "{fixed}");
        }
        for many in [
            "http://localhost:7201",
            "http://127.0.0.1:1, http://127.0.0.1:2",
        ] {
            assert!(matches!(open(many).unwrap().0, Kind::Replicas(_)), "{many}");
        }
    }

    #[tokio::test]
    async fn what_is_no_url_is_told() {
        for wrong in [
            "",
            "not a url",
            "driver-management:7201",
            "https://a:1",
            "http://a:1,",
        ] {
            let refused = open(wrong).unwrap_err().to_string();
            assert!(
                refused.contains("is no URL of a gRPC service"),
                "{wrong}: {refused}"
            );
        }
    }
}
