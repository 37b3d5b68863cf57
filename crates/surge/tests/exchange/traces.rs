//! One quote is one trace, and the answer's header `trace-id` opens it. What the price waited for is inside the trace;
//! what it found ready is linked to the traces that made it, in every mode.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use surge_proto::DataflowMode;

use crate::{
    api::{Quote, downtown, read},
    support::{Exchange, Market, Outcome, eventually},
};

const PRICE: &str = "price-optimization";
const SUPPLY: &str = "driver-management";
const DEMAND: &str = "ride-management";
const BATCH: &str = "price-optimization-batch";

#[tokio::test]
async fn a_request_quote_is_one_trace_across_all_three_services() -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let trace_id = quoted(&exchange, DataflowMode::Request).await?;
    eventually("the trace has both calls, from both sides", async || {
        let trace = Trace::open(&exchange, &trace_id).await?;
        let root = trace.span(PRICE, "server", "POST /v1/quotes")?;
        for (callee, method) in [
            (SUPPLY, "surge.v1.SupplyService/GetSupply"),
            (DEMAND, "surge.v1.DemandService/GetDemand"),
        ] {
            let call = trace.span(PRICE, "client", method)?;
            let answer = trace.span(callee, "server", method)?;
            ensure!(
                answer.parent() == Some(&call.id),
                "{answer:?} under {call:?}"
            );
            ensure!(trace.descends(call, root), "{call:?} under {root:?}");
        }
        Ok(())
    })
    .await?;
    exchange.close().await
}

#[tokio::test]
async fn a_database_quote_is_linked_to_the_batch_and_that_to_its_sources() -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let trace_id = quoted(&exchange, DataflowMode::Database).await?;
    let batch = eventually("the quote has its query and its link", async || {
        let trace = Trace::open(&exchange, &trace_id).await?;
        let root = trace.span(PRICE, "server", "POST /v1/quotes")?;
        let query = trace.span(PRICE, "client", "SELECT zone_market")?;
        ensure!(trace.descends(query, root), "{query:?} under {root:?}");
        let [batch] = trace.links()[..] else {
            bail!("one link expected: {trace:?}");
        };
        Ok(batch.to_owned())
    });
    let batch = batch.await?;
    eventually("the batch run is linked to both writers", async || {
        let batch = Trace::open(&exchange, &batch).await?;
        batch.span(BATCH, "internal", "batch zone_market")?;
        has_sources(&exchange, &batch).await
    })
    .await?;
    exchange.close().await
}

#[tokio::test]
async fn an_events_quote_is_linked_to_the_traces_that_published_its_levels() -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let trace_id = quoted(&exchange, DataflowMode::Events).await?;
    eventually("both publishers are linked", async || {
        let trace = Trace::open(&exchange, &trace_id).await?;
        trace.span(PRICE, "server", "POST /v1/quotes")?;
        ensure!(
            trace.processes.len() == 1,
            "it waited for somebody: {trace:?}"
        );
        has_sources(&exchange, &trace).await?;
        for link in trace.links() {
            Trace::open(&exchange, link).await?.publish_span()?;
        }
        Ok(())
    })
    .await?;
    exchange.close().await
}

/// Asks for a quote and returns what its header `trace-id` says.
async fn quoted(exchange: &Exchange, mode: DataflowMode) -> anyhow::Result<String> {
    eventually("there is a quote", async || {
        let answer = exchange.api.ask_quote(downtown(), mode).await?;
        let trace_id = answer.headers.get("trace-id").cloned();
        let quote: Quote = read(Ok(answer))?;
        ensure!(quote.dataflow == mode && !quote.degraded, "{quote:?}");
        Ok(trace_id.context("no trace-id")?.to_str()?.to_owned())
    })
    .await
}

/// The traces that this one is linked to are one of each source, and nobody else's.
async fn has_sources(exchange: &Exchange, trace: &Trace) -> Outcome {
    let mut services = BTreeSet::new();
    for link in trace.links() {
        let source = Trace::open(exchange, link).await?;
        services.extend(
            source
                .processes
                .into_values()
                .map(|process| process.service),
        );
    }
    let both = [SUPPLY, DEMAND].map(str::to_owned);
    ensure!(services == both.into(), "linked to {services:?}");
    Ok(())
}

/// A trace, as the Jaeger UI reads it.
#[derive(Debug, Deserialize)]
struct Trace {
    spans: Vec<Span>,
    processes: BTreeMap<String, Process>,
}

#[derive(Debug, Deserialize)]
struct Span {
    #[serde(rename = "spanID")]
    id: String,
    #[serde(rename = "operationName")]
    operation: String,
    references: Vec<Reference>,
    tags: Vec<Tag>,
    #[serde(rename = "processID")]
    process: String,
}

#[derive(Debug, Deserialize)]
struct Reference {
    #[serde(rename = "refType")]
    kind: String,
    #[serde(rename = "traceID")]
    trace: String,
    #[serde(rename = "spanID")]
    span: String,
}

#[derive(Debug, Deserialize)]
struct Tag {
    key: String,
    value: Value,
}

#[derive(Debug, Deserialize)]
struct Process {
    #[serde(rename = "serviceName")]
    service: String,
}

#[derive(Deserialize)]
struct Found {
    data: Vec<Trace>,
}

impl Trace {
    /// What the collector has of it so far.
    async fn open(exchange: &Exchange, id: &str) -> anyhow::Result<Self> {
        let url = format!("{}/api/traces/{id}", exchange.stack.traces_url());
        let found: Found = exchange.api.fetch(&url).await?;
        found.data.into_iter().next().context("no such trace yet")
    }

    fn span(&self, service: &str, kind: &str, operation: &str) -> anyhow::Result<&Span> {
        self.spans
            .iter()
            .find(|span| {
                span.operation == operation
                    && span.kind() == kind
                    && self.processes[&span.process].service == service
            })
            .with_context(|| format!("no {kind} span {operation} of {service} in {self:?}"))
    }

    fn publish_span(&self) -> anyhow::Result<&Span> {
        self.span(SUPPLY, "producer", "publish surge.v1.supply")
            .or_else(|_| self.span(DEMAND, "producer", "publish surge.v1.demand"))
    }

    fn descends(&self, span: &Span, from: &Span) -> bool {
        let parent = |span: &Span| {
            self.spans
                .iter()
                .find(|other| span.parent() == Some(&other.id))
        };
        std::iter::successors(Some(span), |span| parent(span)).any(|span| span.id == from.id)
    }

    /// The traces that this one is linked to.
    fn links(&self) -> Vec<&str> {
        let references = self.spans.iter().flat_map(|span| &span.references);
        let links = references.filter(|reference| reference.kind == "FOLLOWS_FROM");
        links.map(|reference| reference.trace.as_str()).collect()
    }
}

impl Span {
    fn kind(&self) -> &str {
        let kind = self.tags.iter().find(|tag| tag.key == "span.kind");
        kind.and_then(|tag| tag.value.as_str())
            .unwrap_or("internal")
    }

    fn parent(&self) -> Option<&String> {
        let parent = self
            .references
            .iter()
            .find(|reference| reference.kind == "CHILD_OF");
        parent.map(|reference| &reference.span)
    }
}
