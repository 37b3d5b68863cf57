//! The HTTP server of a city, and the rule that there is never more than one on the same services.
//!
//! ```text
//! GET  /livez      the process answers
//! GET  /readyz     the city lives, and its services answer
//! GET  /metrics    its counts, for Prometheus
//! GET  /v1/truth   multiplier, supply and demand of every zone now, and whether to trust them
//! POST /v1/crowds  adds riders, such as the visitors of a concert at its end
//! ```
//!
//! Two cities on the same services would disturb each other: each would see drivers and requests
//! that it did not make, and both oracles would be wrong. So a city first claims its address
//! ([`CityServer::claim`]): if a city answers there, or the port is taken, it does not start. It
//! listens before it prepares, so two cities that start at the same time cannot both pass.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, anyhow, bail};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{StatusCode, Uri};
use serde::Serialize;
use serde_json::{Value, json};
use strict_serde::Strict;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::client::{CallError, Client};
use crate::market_truth::{CrowdRequest, MarketTruth};
use crate::metrics;
use crate::state::CityState;

/// The server of a city; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct CityServer {
    url: String,
    /// Empty until the city is prepared.
    city: Arc<OnceLock<Arc<CityState>>>,
    task: JoinHandle<()>,
}

impl CityServer {
    /// Claims the address of the city on these services: `url`, where others look for it. It
    /// listens on `addr`, or on loopback with the port of the URL.
    ///
    /// # Errors
    /// If a city answers at the URL; the message names the address. If the port is taken.
    pub(crate) async fn claim(
        url: &str,
        addr: Option<SocketAddr>,
        client: &Client,
    ) -> anyhow::Result<Self> {
        if find(url, client).await.is_some() {
            bail!("a city lives on these services already, at {url}: there is never more than one");
        }
        let addr = match addr {
            Some(addr) => addr,
            None => loopback(url)?,
        };
        let listener = TcpListener::bind(addr)
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => {
                    anyhow!("{addr} is in use, and the city wants it: name another with --addr")
                }
                _ => anyhow::Error::new(error).context(format!("cannot listen on {addr}")),
            })?;
        let city = Arc::default();
        let app = router(Arc::clone(&city), client.clone());
        let task = tokio::spawn(async move {
            // It never returns, but for errors that a retry would not mend.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self {
            url: url.to_owned(),
            city,
            task,
        })
    }

    /// The URL at which others find it.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// From now on it answers for this city.
    pub(crate) fn serve(&self, city: Arc<CityState>) {
        // A second city would be a mistake of the caller; the first stays.
        let _ = self.city.set(city);
    }
}

impl Drop for CityServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a city at this URL answers; `None` if there is none.
pub(crate) async fn find(url: &str, client: &Client) -> Option<CityAnswer> {
    let answer = client.get(&format!("{url}/v1/truth")).await.ok()?;
    if answer.status == StatusCode::SERVICE_UNAVAILABLE {
        let problem: Value = answer.json().ok()?;
        return (problem["title"] == STARTING).then_some(CityAnswer::Starting);
    }
    Some(CityAnswer::Truth(Box::new(answer.json().ok()?)))
}

/// The answer of a city.
pub(crate) enum CityAnswer {
    /// It prepares.
    Starting,
    /// It lives.
    Truth(Box<MarketTruth>),
}

const STARTING: &str = "the city is starting";

/// Loopback, with the port of the URL.
fn loopback(url: &str) -> anyhow::Result<SocketAddr> {
    let uri: Uri = url.parse()?;
    let port = uri
        .port_u16()
        .with_context(|| format!("{url} has no port to listen on: name an address with --addr"))?;
    Ok((IpAddr::from(Ipv4Addr::LOCALHOST), port).into())
}

#[derive(Clone)]
struct App {
    city: Arc<OnceLock<Arc<CityState>>>,
    client: Client,
}

fn router(city: Arc<OnceLock<Arc<CityState>>>, client: Client) -> Router {
    Router::new()
        .route("/livez", get(StatusCode::OK))
        .route("/readyz", get(readyz))
        .route("/metrics", get(prometheus))
        .route("/v1/truth", get(truth))
        .route("/v1/crowds", post(add_crowd))
        .with_state(App { city, client })
}

impl App {
    fn city(&self) -> Result<&Arc<CityState>, CityProblem> {
        let starting = CityProblem(StatusCode::SERVICE_UNAVAILABLE, STARTING);
        self.city.get().ok_or(starting)
    }
}

async fn truth(State(app): State<App>) -> Result<Json<MarketTruth>, CityProblem> {
    Ok(Json(app.city()?.market_truth()))
}

async fn add_crowd(
    State(app): State<App>,
    Json(Strict(request)): Json<Strict<CrowdRequest>>,
) -> Result<(StatusCode, Json<CrowdRequest>), CityProblem> {
    let city = app.city()?;
    let refused = |reason| CityProblem(StatusCode::UNPROCESSABLE_ENTITY, reason);
    let crowd = request.crowd(city.clock.now()).map_err(refused)?;
    if city.truth.area().zone_of(crowd.place).is_err() {
        return Err(refused("place is outside the service area"));
    }
    city.add_crowd(crowd);
    Ok((StatusCode::ACCEPTED, Json(CrowdRequest::from(&crowd))))
}

async fn prometheus(State(app): State<App>) -> Result<Response, CityProblem> {
    let text = metrics::encode(app.city()?);
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// As the services answer it: with the state of each dependency.
async fn readyz(State(app): State<App>) -> Response {
    let Some(city) = app.city.get() else {
        let body = json!({"status": "starting", "dependencies": {}});
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    };
    let probe = async |name, base: &str| {
        let answer = app.client.get(&format!("{base}/livez")).await;
        (
            name,
            DependencyState::of(answer.map(|answer| answer.status)),
        )
    };
    let [driver, ride, price] = city.target.services();
    let dependencies = tokio::join!(
        probe(driver.0, driver.1),
        probe(ride.0, ride.1),
        probe(price.0, price.1)
    );
    let dependencies = BTreeMap::from([dependencies.0, dependencies.1, dependencies.2]);
    let is_ready = dependencies.values().all(|it| it.status == "up");
    let (status, code) = match is_ready {
        true => ("ready", StatusCode::OK),
        false => ("unready", StatusCode::SERVICE_UNAVAILABLE),
    };
    let body = json!({"status": status, "dependencies": dependencies});
    (code, Json(body)).into_response()
}

#[derive(Serialize)]
struct DependencyState {
    status: &'static str,
    needed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl DependencyState {
    fn of(answer: Result<StatusCode, CallError>) -> Self {
        let reason = match answer {
            Ok(status) if status.is_success() => None,
            Ok(status) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        };
        Self {
            status: if reason.is_none() { "up" } else { "down" },
            needed: true,
            reason,
        }
    }
}

/// A problem report (RFC 9457).
struct CityProblem(StatusCode, &'static str);

impl IntoResponse for CityProblem {
    fn into_response(self) -> Response {
        let Self(status, title) = self;
        let body = json!({"title": title, "status": status.as_u16()}).to_string();
        (status, [(CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn free_url() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    #[tokio::test]
    async fn second_city_names_the_first() {
        let (url, client) = (free_url().await, Client::new(Duration::from_secs(5)));
        let first = CityServer::claim(&url, None, &client).await.unwrap();
        let refused = CityServer::claim(&url, None, &client).await.unwrap_err();
        assert!(refused.to_string().contains(&url), "{refused}");
        assert!(!refused.to_string().contains('\n'), "{refused}");
        drop(first);
        let answer = client.get(&format!("{url}/livez")).await;
        assert!(answer.is_err(), "the server ends with its owner");
    }

    #[tokio::test]
    async fn starting_city_is_unready() {
        let (url, client) = (free_url().await, Client::new(Duration::from_secs(5)));
        let _server = CityServer::claim(&url, None, &client).await.unwrap();
        for (path, status) in [("livez", 200), ("readyz", 503), ("v1/truth", 503)] {
            let answer = client.get(&format!("{url}/{path}")).await.unwrap();
            assert_eq!(answer.status.as_u16(), status, "{path}");
        }
        assert!(matches!(
            find(&url, &client).await,
            Some(CityAnswer::Starting)
        ));
    }

    #[tokio::test]
    async fn port_of_another_program_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = Client::new(Duration::from_millis(200));
        let refused = CityServer::claim(&format!("http://{address}"), None, &client).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(&address.to_string()), "{refused}");
    }
}
