//! A layer that sees every request of an edge before it is answered, and its answer after. What axum has for it
//! (`middleware::from_fn`) boxes and clones what comes after it once more for each request: a thirtieth of a quote.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use axum::{extract::Request, response::Response};
use futures::{FutureExt, TryFutureExt, future::BoxFuture};
use tower::{Layer, Service};

/// One edge of a service.
pub(crate) trait Edge: Clone + Send + Sync + 'static {
    /// What is remembered of a request until it is answered.
    type Asked: Send + 'static;

    /// A request came.
    fn asked(&self, request: &Request) -> Self::Asked;

    /// Its answer, which the edge may bound, replace or write to.
    fn answer(
        self,
        asked: Self::Asked,
        answer: impl Future<Output = Response> + Send + 'static,
    ) -> impl Future<Output = Response> + Send + 'static;
}

/// Puts an edge around each route.
#[derive(Clone, Debug)]
pub(crate) struct Around<E>(pub(crate) E);

impl<S, E: Edge> Layer<S> for Around<E> {
    type Service = Edged<S, E>;

    fn layer(&self, route: S) -> Self::Service {
        let edge = self.0.clone();
        Edged { route, edge }
    }
}

/// A route with an edge around it.
#[derive(Clone, Debug)]
pub(crate) struct Edged<S, E> {
    route: S,
    edge: E,
}

impl<S, E> Service<Request> for Edged<S, E>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
    E: Edge,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.route.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let asked = self.edge.asked(&request);
        let answer = self.route.call(request);
        let answer = answer.unwrap_or_else(|never| match never {});
        self.edge.clone().answer(asked, answer).map(Ok).boxed()
    }
}
