//! Checks over HTTP whether the stack is ready: every service says that it is, and each dataflow
//! returns a quote that is not degraded.

use std::time::Duration;

use anyhow::{Context as _, bail};
use city::{
    Client,
    client::{CallError, HttpAnswer},
};
use http::{HeaderValue, Method, Request, StatusCode};
use serde::Deserialize;
use surge_proto::DataflowMode;

use super::{Member, Part, PortMap, ports::url};

/// How often the stack checks a service that starts, which takes about 100 ms.
pub(super) const POLL: Duration = Duration::from_millis(25);

/// One local call; a service answers in a millisecond, but may itself wait for a dependency.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// A client of the services.
#[derive(Debug)]
pub(super) struct ReadinessCheck {
    client: Client,
    ports: PortMap,
}

#[derive(Deserialize)]
struct QuoteOutcome {
    dataflow: DataflowMode,
    degraded: bool,
}

impl ReadinessCheck {
    pub(super) fn new(ports: PortMap) -> Self {
        let client = Client::new(CALL_LIMIT);
        Self { client, ports }
    }

    /// Succeeds if all replicas are ready, and each price-optimization quotes in each of these
    /// modes from fresh data.
    pub(super) async fn suite(&self, modes: &[DataflowMode]) -> anyhow::Result<()> {
        for service in Part::SERVICES {
            for replica in Member::first(service, self.ports.count(service)) {
                self.service(replica, "/readyz").await?;
            }
        }
        for price in &self.ports.http[2] {
            for mode in modes {
                self.mode(*price, *mode).await?;
            }
        }
        Ok(())
    }

    /// Succeeds if a replica of a service answers 200 on this path.
    pub(super) async fn service(&self, service: Member, path: &str) -> anyhow::Result<()> {
        let port = self.ports.of(service)[0];
        let answer = self.client.get(&format!("{}{path}", url(port))).await;
        ensure_ok(answer).with_context(|| format!("{service} is not ready"))
    }

    async fn mode(&self, price: u16, mode: DataflowMode) -> anyhow::Result<()> {
        let quote = async {
            let answer = self.client.call(quote_request(price, mode)?).await?;
            let quote: QuoteOutcome = answer.json().with_context(|| answer.excerpt())?;
            match quote {
                QuoteOutcome { dataflow, .. } if dataflow != mode => {
                    bail!("{dataflow} answered for it")
                }
                QuoteOutcome { degraded: true, .. } => bail!("there is no fresh data for it yet"),
                _ => Ok(()),
            }
        };
        quote
            .await
            .with_context(|| format!("the dataflow {mode} does not quote yet"))
    }
}

/// From Grand Central Terminal to Wall Street.
fn quote_request(
    price: u16,
    mode: DataflowMode,
) -> anyhow::Result<Request<http_body_util::Full<bytes::Bytes>>> {
    let body = super::EXAMPLE_TRIP.to_owned();
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}/v1/quotes", url(price)))
        .header("content-type", "application/json")
        .header("surge-dataflow", HeaderValue::from_static(mode.as_str()));
    Ok(request.body(body.into())?)
}

fn ensure_ok(answer: Result<HttpAnswer, CallError>) -> anyhow::Result<()> {
    let answer = answer?;
    match answer.status {
        StatusCode::OK => Ok(()),
        status => bail!("{status}: {}", answer.excerpt()),
    }
}
