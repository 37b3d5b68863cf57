//! Health of a service, as an orchestrator asks for it.
//!
//! `/livez` says that the process runs. `/readyz` asks every dependency at that moment, and its
//! answer lists each of them with its state and whether the service needs it:
//!
//! ```text
//!  postgres  up              ──┐
//!  nats      down, not needed ─┼─▶ 503 unready: a dependency that is needed is down
//!  peer      down, needed    ──┘
//! ```
//!
//! So a service stays ready while a server is away that its present work does not depend on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use futures::future::{BoxFuture, join_all};
use serde::Serialize;

use crate::clock::{ClockReading, MarketClock};

/// How long a dependency may take to answer a health check.
const CHECK_DEADLINE: Duration = Duration::from_millis(500);

type CheckFunction = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;
type Needed = Arc<dyn Fn() -> bool + Send + Sync>;

/// The dependencies of a service, each with its health check.
#[derive(Clone)]
pub struct Health {
    clock: MarketClock,
    dependencies: Vec<Dependency>,
}

#[derive(Clone)]
struct Dependency {
    name: &'static str,
    check: CheckFunction,
    needed: Needed,
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    dependencies: BTreeMap<&'static str, DependencyHealth>,
    market_clock: ClockReading,
}

#[derive(Serialize)]
struct DependencyHealth {
    status: &'static str,
    needed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.dependencies.iter().map(|dependency| dependency.name))
            .finish()
    }
}

impl Health {
    /// A service without dependencies, on this clock.
    pub const fn new(clock: MarketClock) -> Self {
        Self {
            clock,
            dependencies: Vec::new(),
        }
    }

    /// Adds a dependency that the service always needs.
    #[must_use]
    pub fn needs<F>(self, name: &'static str, check: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
    {
        self.needs_while(name, || true, check)
    }

    /// Adds a dependency that the service needs while `needed` says so.
    #[must_use]
    pub fn needs_while<F, N>(mut self, name: &'static str, needed: N, check: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
        N: Fn() -> bool + Send + Sync + 'static,
    {
        self.dependencies.push(Dependency {
            name,
            check: Arc::new(check),
            needed: Arc::new(needed),
        });
        self
    }

    /// `GET /livez` and `GET /readyz`.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(move || readyz(self.clone())))
    }
}

async fn readyz(health: Health) -> Response {
    let checked = join_all(health.dependencies.iter().map(Dependency::check)).await;
    let ready = checked
        .iter()
        .all(|(_, health)| health.status == "up" || !health.needed);
    let readiness = Readiness {
        status: if ready { "ready" } else { "unready" },
        dependencies: checked.into_iter().collect(),
        market_clock: health.clock.reading(),
    };
    let status = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(readiness)).into_response()
}

impl Dependency {
    async fn check(&self) -> (&'static str, DependencyHealth) {
        let answer = tokio::time::timeout(CHECK_DEADLINE, (self.check)()).await;
        let reason = match answer {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(_) => Some(format!("no answer within {CHECK_DEADLINE:?}")),
        };
        let health = DependencyHealth {
            status: if reason.is_none() { "up" } else { "down" },
            needed: (self.needed)(),
            reason,
        };
        (self.name, health)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    async fn status(health: Health) -> StatusCode {
        readyz(health).await.status()
    }

    #[tokio::test]
    async fn only_needed_dependency_makes_service_unready() {
        let down = || async { Err("refused".to_owned()) }.boxed();
        let health = Health::new(MarketClock::real_time());
        assert_eq!(status(health.clone()).await, StatusCode::OK);

        let dependent = health.clone().needs("nats", down);
        assert_eq!(status(dependent).await, StatusCode::SERVICE_UNAVAILABLE);

        let independent = health.needs_while("nats", || false, down);
        assert_eq!(status(independent).await, StatusCode::OK);
    }
}
