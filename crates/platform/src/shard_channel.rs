//! A gRPC channel for shards. What answers a call is a task of the connection that it is made on, and that task lives on the
//! thread that opened the connection: were there one connection for all shards, every call of all but one would cross to
//! another thread and back. So each thread has a connection of its own, opened by its first call.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use thread_local::ThreadLocal;
use tonic::{
    body::Body,
    transport::{Channel, Endpoint, Error, channel::ResponseFuture},
};
use tower::Service;

/// A channel to `endpoint` for each thread that calls it. Cheap to clone.
#[derive(Debug)]
pub(crate) struct ShardChannel {
    channels: Arc<Channels>,
    /// That of the thread on which a call is being made ready.
    here: Option<Channel>,
}

#[derive(Debug)]
struct Channels {
    endpoint: Endpoint,
    opened: ThreadLocal<Channel>,
}

impl ShardChannel {
    /// Opens nothing yet; `endpoint` does not have to be there.
    pub(crate) fn to(endpoint: Endpoint) -> Self {
        let channels = Channels {
            endpoint,
            opened: ThreadLocal::new(),
        };
        Self {
            channels: Arc::new(channels),
            here: None,
        }
    }
}

impl Channels {
    fn here(&self) -> Channel {
        let opened = self.opened.get_or(|| self.endpoint.connect_lazy());
        opened.clone()
    }
}

/// A clone may be used on another thread.
impl Clone for ShardChannel {
    fn clone(&self) -> Self {
        Self {
            channels: Arc::clone(&self.channels),
            here: None,
        }
    }
}

impl Service<Request<Body>> for ShardChannel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let here = self.here.get_or_insert_with(|| self.channels.here());
        here.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let here = self.here.as_mut();
        here.expect("a service is made ready before it is called")
            .call(request)
    }
}
