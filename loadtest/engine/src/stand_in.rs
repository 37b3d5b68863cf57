//! A price-optimization for tests: it answers quotes correctly, or wrongly in a chosen way.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use marketplace::{Position, Zone};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// The pickup of all test trips.
pub fn pickup() -> Position {
    Position::new(40.7527, -73.9772).expect("a place in Manhattan")
}

/// A correct quote for a trip from [`pickup`].
pub fn quote_body(mode: &str) -> Value {
    json!({
        "quote_id": "01939b3c-0000-7000-8000-000000000001", "fare_cents": 1817,
        "currency": "USD", "surge_multiplier": 1.3, "zone": Zone::at(pickup()),
        "dataflow": mode, "epoch": 1, "supply": 5.0, "demand": 7.5, "data_age_ms": 250.0,
        "degraded": false, "expires_at": "2014-04-04T21:22:00.000Z", "token": "t"
    })
}

/// How the stand-in answers quotes.
#[derive(Clone, Copy, Default)]
pub struct Behaviour {
    /// Answers nothing between these two times after its start.
    pub stall: Option<(Duration, Duration)>,
    /// Writes this mode into every quote instead of the requested one.
    pub always: Option<&'static str>,
    /// Answers every n-th quote with 503.
    pub unavailable_every: Option<u64>,
}

/// Starts the stand-in on a free port and returns its base URL; it ends with the test's runtime.
pub async fn price_optimization(behaviour: Behaviour) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let stand_in = Arc::new(StandIn {
        behaviour,
        opened: Instant::now(),
        quotes: AtomicU64::new(0),
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stand_in = Arc::clone(&stand_in);
            let answer = service_fn(move |request| Arc::clone(&stand_in).answer(request));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    format!("http://{address}")
}

struct StandIn {
    behaviour: Behaviour,
    opened: Instant,
    quotes: AtomicU64,
}

impl StandIn {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let mut answer = Response::new(Full::from("{}"));
        if request.uri().path() != "/v1/quotes" {
            return Ok(answer);
        }
        if let Some((from, until)) = self.behaviour.stall
            && (from..until).contains(&self.opened.elapsed())
        {
            tokio::time::sleep_until(self.opened + until).await;
        }
        let number = self.quotes.fetch_add(1, Ordering::Relaxed) + 1;
        let every = self.behaviour.unavailable_every;
        if every.is_some_and(|every| number.is_multiple_of(every)) {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(answer);
        }
        let mode = request.headers().get("surge-dataflow");
        let mode = mode.and_then(|mode| mode.to_str().ok()).unwrap_or_default();
        let quote = quote_body(self.behaviour.always.unwrap_or(mode));
        Ok(Response::new(quote.to_string().into()))
    }
}
