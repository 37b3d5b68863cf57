//! `/livez` says that the process runs; `/readyz` asks every dependency, now, and says which of them is needed.
//! A dependency that is away but not needed leaves the service ready: that is what independence means here.

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

/// How long a dependency may take to answer a probe.
const PROBE_DEADLINE: Duration = Duration::from_millis(500);

type Probe = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;
type Needed = Arc<dyn Fn() -> bool + Send + Sync>;

/// What a service depends on, and how to ask each dependency whether it is there.
#[derive(Clone)]
pub struct Health {
    clock: MarketClock,
    dependencies: Vec<Dependency>,
}

#[derive(Clone)]
struct Dependency {
    name: &'static str,
    probe: Probe,
    needed: Needed,
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    dependencies: BTreeMap<&'static str, Probed>,
    market_clock: ClockReading,
}

#[derive(Serialize)]
struct Probed {
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
    pub fn needs<F>(self, name: &'static str, probe: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
    {
        self.needs_while(name, || true, probe)
    }

    /// Adds a dependency that the service needs while `needed` says so.
    #[must_use]
    pub fn needs_while<F, N>(mut self, name: &'static str, needed: N, probe: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
        N: Fn() -> bool + Send + Sync + 'static,
    {
        self.dependencies.push(Dependency {
            name,
            probe: Arc::new(probe),
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
    let probed = join_all(health.dependencies.iter().map(Dependency::ask)).await;
    let ready = probed
        .iter()
        .all(|(_, probed)| probed.status == "up" || !probed.needed);
    let readiness = Readiness {
        status: if ready { "ready" } else { "unready" },
        dependencies: probed.into_iter().collect(),
        market_clock: health.clock.reading(),
    };
    let status = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(readiness)).into_response()
}

impl Dependency {
    async fn ask(&self) -> (&'static str, Probed) {
        let answer = tokio::time::timeout(PROBE_DEADLINE, (self.probe)()).await;
        let reason = match answer {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(_) => Some(format!("no answer within {PROBE_DEADLINE:?}")),
        };
        let probed = Probed {
            status: if reason.is_none() { "up" } else { "down" },
            needed: (self.needed)(),
            reason,
        };
        (self.name, probed)
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
    async fn only_a_dependency_that_is_needed_makes_a_service_unready() {
        let down = || async { Err("refused".to_owned()) }.boxed();
        let health = Health::new(MarketClock::real_time());
        assert_eq!(status(health.clone()).await, StatusCode::OK);

        let leaning = health.clone().needs("nats", down);
        assert_eq!(status(leaning).await, StatusCode::SERVICE_UNAVAILABLE);

        let independent = health.needs_while("nats", || false, down);
        assert_eq!(status(independent).await, StatusCode::OK);
    }
}
