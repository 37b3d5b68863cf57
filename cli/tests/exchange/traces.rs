//! One quote is one trace, which the header `trace-id` opens. Calls of the quote are spans inside
//! it. Data that was ready before is linked to the traces that produced it, and those to their
//! sources. Each test compares the whole set of edges of a mode, so that a missing or an extra one
//! fails it.
//!
//! An edge is a line: `->` to a child, `~>` by a link. A letter stands for a process, as in
//! docs/telemetry.md: D driver-management, R ride-management, P price-optimization, B its batch
//! job.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::Value;
use surge_proto::DataflowMode;

use crate::{
    api::{PublicApi, downtown},
    support::{Exchange, Market, Outcome, eventually},
};

const PRICE: &str = "price-optimization";
const SUPPLY: &str = "driver-management";
const DEMAND: &str = "ride-management";

/// The tag `{"surge.origins":"1"}`: exactly one request is behind it.
const ONE_ORIGIN: &str = "%7B%22surge.origins%22:%221%22%7D";

/// The most traces behind one quote: a few, unless links multiply.
const MAX_TRACES: usize = 32;

#[tokio::test]
async fn request_quote_spans_three_services() -> Outcome {
    compare_edges(
        DataflowMode::Request,
        &[],
        "
        P server POST /v1/quotes -> P internal quote
        P internal quote -> P internal dataflow request
        P internal dataflow request -> P client surge.v1.SupplyService/GetSupply
        P client surge.v1.SupplyService/GetSupply -> D server surge.v1.SupplyService/GetSupply
        P internal dataflow request -> P client surge.v1.DemandService/GetDemand
        P client surge.v1.DemandService/GetDemand -> R server surge.v1.DemandService/GetDemand
        ",
    )
    .await
}

#[tokio::test]
async fn database_quote_links_to_batch_sources() -> Outcome {
    compare_edges(
        DataflowMode::Database,
        &[],
        "
        P server POST /v1/quotes -> P internal quote
        P internal quote -> P internal dataflow database
        P internal dataflow database -> P client SELECT zone_market
        B internal batch zone_market ~> P internal dataflow database
        B internal batch zone_market -> B client SELECT driver.supply_watermark
        B internal batch zone_market -> B client SELECT driver.supply_by_zone
        B internal batch zone_market -> B client SELECT ride.demand_watermark
        B internal batch zone_market -> B client SELECT ride.demand_by_zone_window
        B internal batch zone_market -> B client INSERT batch_run
        B internal batch zone_market -> B client INSERT zone_market
        D client UPDATE driver, replica ~> B internal batch zone_market
        D internal write positions -> D client UPDATE driver, replica
        R client UPDATE replica ~> B internal batch zone_market
        R internal publish ride.demand_watermark -> R client SELECT journal
        R internal publish ride.demand_watermark -> R client UPDATE replica
        ",
    )
    .await
}

#[tokio::test]
async fn events_quote_links_to_publishing_traces() -> Outcome {
    compare_edges(
        DataflowMode::Events,
        &["process surge.v1.supply", "process surge.v1.demand"],
        "
        P server POST /v1/quotes -> P internal quote
        P internal quote -> P internal dataflow events
        D producer publish surge.v1.supply ~> P internal dataflow events
        R producer publish surge.v1.demand ~> P internal dataflow events
        D producer publish surge.v1.supply ~> P consumer process surge.v1.supply
        R producer publish surge.v1.demand ~> P consumer process surge.v1.demand
        ",
    )
    .await
}

#[tokio::test]
async fn quotes_by_hand_are_always_traced() -> Outcome {
    let mut exchange = Exchange::open(Market::REAL_TIME).await?;
    for _ in 0..10 {
        ensure!(
            is_traced(&exchange.api).await?,
            "a quote by hand has no trace"
        );
    }
    let flood = futures::future::try_join_all((0..500).map(|_| is_traced(&exchange.api)));
    let traced = flood.await?.into_iter().filter(|traced| *traced).count();
    ensure!(traced < 400, "{traced} of 500 quotes at once were traced");

    exchange.api.asks_for_traces = true;
    let asked = futures::future::try_join_all((0..50).map(|_| is_traced(&exchange.api)));
    ensure!(
        asked.await?.into_iter().all(|traced| traced),
        "a quote that asked has no trace"
    );
    exchange.close().await
}

async fn is_traced(api: &PublicApi) -> anyhow::Result<bool> {
    let answer = api.ask_quote(downtown(), DataflowMode::Events).await?;
    ensure!(answer.status.is_success(), "{}", answer.excerpt());
    Ok(answer.headers.contains_key("trace-id"))
}

#[tokio::test]
async fn published_levels_link_to_their_requests() -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    exchange.api.goes_online(downtown().pickup).await?;
    expect_edges(
        &exchange,
        async || {
            Ok(vec![
                newest(&exchange, SUPPLY, "publish surge.v1.supply", ONE_ORIGIN).await?,
                newest(&exchange, SUPPLY, "write positions", ONE_ORIGIN).await?,
            ])
        },
        "
        D server PUT /v1/drivers/{driver_id} -> D client SELECT driver
        D server PUT /v1/drivers/{driver_id} -> D client UPDATE driver
        D server PUT /v1/drivers/{driver_id} ~> D producer publish surge.v1.supply
        D server PUT /v1/drivers/{driver_id} ~> D internal write positions
        D internal write positions -> D client UPDATE driver, replica
        ",
    )
    .await?;

    let quote = exchange.api.quote(downtown(), None).await?;
    exchange.api.insists_on_ride(&quote, downtown()).await?;
    expect_edges(
        &exchange,
        async || {
            Ok(vec![
                newest(&exchange, DEMAND, "publish surge.v1.demand", ONE_ORIGIN).await?,
                newest(
                    &exchange,
                    DEMAND,
                    "publish ride.demand_watermark",
                    ONE_ORIGIN,
                )
                .await?,
            ])
        },
        "
        R server POST /v1/rides -> R client INSERT ride
        R server POST /v1/rides -> R client surge.v1.SupplyService/Dispatch
        R client surge.v1.SupplyService/Dispatch -> D server surge.v1.SupplyService/Dispatch
        D server surge.v1.SupplyService/Dispatch -> D client INSERT dispatch
        D server surge.v1.SupplyService/Dispatch -> D client UPDATE driver, dispatch
        D server surge.v1.SupplyService/Dispatch -> D client COMMIT
        R server POST /v1/rides -> R client UPDATE ride
        R server POST /v1/rides ~> R producer publish surge.v1.demand
        R server POST /v1/rides ~> R internal publish ride.demand_watermark
        R internal publish ride.demand_watermark -> R client SELECT journal
        R internal publish ride.demand_watermark -> R client UPDATE replica
        ",
    )
    .await?;
    exchange.close().await
}

/// Compares the edges that lead to a quote, and to the newest of each of these `operations` of
/// price-optimization, with those expected.
async fn compare_edges(mode: DataflowMode, operations: &[&str], expected: &str) -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let (_, quote) = exchange.quoted(mode).await?;
    let roots = async || {
        let mut roots = vec![quote.clone()];
        for operation in operations {
            roots.push(newest(&exchange, PRICE, operation, "").await?);
        }
        Ok(roots)
    };
    expect_edges(&exchange, roots, expected).await?;
    exchange.close().await
}

/// Waits until the edges that lead to these traces are the expected ones, one a line.
async fn expect_edges(
    exchange: &Exchange,
    roots: impl AsyncFn() -> anyhow::Result<Vec<String>>,
    expected: &str,
) -> Outcome {
    let lines = expected.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty());
    let expected: BTreeSet<String> = lines.map(with_full_names).collect();
    eventually("the edges are those expected", async || {
        let edges = edges_behind(exchange, roots().await?).await?;
        let missing: Vec<_> = expected.difference(&edges).collect();
        let unknown: Vec<_> = edges.difference(&expected).collect();
        ensure!(
            missing.is_empty() && unknown.is_empty(),
            "missing: {missing:#?}, not expected: {unknown:#?}"
        );
        Ok(())
    })
    .await
}

/// The line of an edge with the names of the processes in place of their letters.
fn with_full_names(line: &str) -> String {
    let full = |name: &str| match name {
        "D" => SUPPLY.to_owned(),
        "R" => DEMAND.to_owned(),
        "P" => PRICE.to_owned(),
        "B" => format!("{PRICE}-batch"),
        word => word.to_owned(),
    };
    line.split(' ').map(full).collect::<Vec<_>>().join(" ")
}

/// The newest trace with such a span; `tags` are percent-encoded for the search.
async fn newest(
    exchange: &Exchange,
    service: &str,
    operation: &str,
    tags: &str,
) -> anyhow::Result<String> {
    let url = format!(
        "{}/api/traces?service={service}&operation={}&tags={tags}&limit=1",
        exchange.stack.traces_url(),
        operation.replace(' ', "%20")
    );
    let found: Found = exchange.api.fetch(&url).await?;
    let trace = found.data.into_iter().next();
    let trace = trace.with_context(|| format!("no trace with {operation} yet"))?;
    Ok(trace.id)
}

/// Every edge of these traces and of all traces to which their links lead.
async fn edges_behind(exchange: &Exchange, roots: Vec<String>) -> anyhow::Result<BTreeSet<String>> {
    let mut traces: BTreeMap<String, Trace> = BTreeMap::new();
    let mut to_open: VecDeque<String> = roots.into();
    while let Some(id) = to_open.pop_front() {
        if traces.contains_key(&id) {
            continue;
        }
        ensure!(traces.len() < MAX_TRACES, "too many links: {traces:?}");
        let trace = Trace::open(exchange, &id).await?;
        let references = trace.spans.iter().flat_map(|span| &span.references);
        to_open.extend(references.map(|reference| reference.trace.clone()));
        traces.insert(id, trace);
    }
    let mut edges = BTreeSet::new();
    for trace in traces.values() {
        for span in &trace.spans {
            for reference in &span.references {
                let origin = traces[&reference.trace].name_of(&reference.span)?;
                let arrow = if reference.kind == "CHILD_OF" {
                    "->"
                } else {
                    "~>"
                };
                edges.insert(format!("{origin} {arrow} {}", trace.name_of(&span.id)?));
            }
        }
    }
    Ok(edges)
}

/// A trace, as the Jaeger UI reads it.
#[derive(Debug, Deserialize)]
struct Trace {
    #[serde(rename = "traceID")]
    id: String,
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
    /// The spans that the collector has so far.
    async fn open(exchange: &Exchange, id: &str) -> anyhow::Result<Self> {
        let url = format!("{}/api/traces/{id}", exchange.stack.traces_url());
        let found: Found = exchange.api.fetch(&url).await?;
        found.data.into_iter().next().context("no such trace yet")
    }

    /// Service, kind and operation of a span.
    fn name_of(&self, span: &str) -> anyhow::Result<String> {
        let span = self.spans.iter().find(|held| held.id == span);
        let span = span.with_context(|| format!("a span of trace {} is missing", self.id))?;
        let service = &self.processes[&span.process].service;
        Ok(format!("{service} {} {}", span.kind(), span.operation))
    }
}

impl Span {
    fn kind(&self) -> &str {
        let kind = self.tags.iter().find(|tag| tag.key == "span.kind");
        kind.and_then(|tag| tag.value.as_str())
            .unwrap_or("internal")
    }
}
