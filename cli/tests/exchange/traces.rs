//! One quote is one trace, and the answer's header `trace-id` opens it. What the price waited for
//! is inside the trace; what it found ready is linked to the traces that made it, and they to what
//! they were made from. Each test compares the whole set of edges of a mode, so that one that gets
//! lost, or one too many, fails it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::Value;
use surge_proto::DataflowMode;

use crate::{
    api::{PublicApi, Quote, downtown, read},
    support::{Exchange, Market, Outcome, eventually},
};

const PRICE: &str = "price-optimization";
const SUPPLY: &str = "driver-management";
const DEMAND: &str = "ride-management";

/// The tag `{"surge.origins":"1"}`: exactly one request is behind it.
const ONE_ORIGIN: &str = "%7B%22surge.origins%22:%221%22%7D";

/// Most traces that lead to one quote: a handful, unless something links to all the world.
const MAX_TRACES: usize = 32;

#[tokio::test]
async fn a_request_quote_is_one_trace_across_all_three_services() -> Outcome {
    compare_edges(
        DataflowMode::Request,
        &[],
        "
        price-optimization server POST /v1/quotes -> price-optimization internal quote
        price-optimization internal quote -> price-optimization internal dataflow request
        price-optimization internal dataflow request -> price-optimization client surge.v1.SupplyService/GetSupply
        price-optimization client surge.v1.SupplyService/GetSupply -> driver-management server surge.v1.SupplyService/GetSupply
        price-optimization internal dataflow request -> price-optimization client surge.v1.DemandService/GetDemand
        price-optimization client surge.v1.DemandService/GetDemand -> ride-management server surge.v1.DemandService/GetDemand
        ",
    )
    .await
}

#[tokio::test]
async fn a_database_quote_is_linked_to_the_batch_and_that_to_its_sources() -> Outcome {
    compare_edges(
        DataflowMode::Database,
        &[],
        "
        price-optimization server POST /v1/quotes -> price-optimization internal quote
        price-optimization internal quote -> price-optimization internal dataflow database
        price-optimization internal dataflow database -> price-optimization client SELECT zone_market
        price-optimization-batch internal batch zone_market ~> price-optimization internal dataflow database
        price-optimization-batch internal batch zone_market -> price-optimization-batch client SELECT driver.supply_watermark
        price-optimization-batch internal batch zone_market -> price-optimization-batch client SELECT driver.supply_by_zone
        price-optimization-batch internal batch zone_market -> price-optimization-batch client SELECT ride.demand_watermark
        price-optimization-batch internal batch zone_market -> price-optimization-batch client SELECT ride.demand_by_zone_window
        price-optimization-batch internal batch zone_market -> price-optimization-batch client INSERT batch_run
        price-optimization-batch internal batch zone_market -> price-optimization-batch client INSERT zone_market
        driver-management client UPDATE driver, replica ~> price-optimization-batch internal batch zone_market
        driver-management internal write positions -> driver-management client UPDATE driver, replica
        ride-management client UPDATE replica ~> price-optimization-batch internal batch zone_market
        ride-management internal publish ride.demand_watermark -> ride-management client SELECT journal
        ride-management internal publish ride.demand_watermark -> ride-management client UPDATE replica
        ",
    )
    .await
}

#[tokio::test]
async fn an_events_quote_is_linked_to_the_traces_that_published_its_levels() -> Outcome {
    compare_edges(
        DataflowMode::Events,
        &["process surge.v1.supply", "process surge.v1.demand"],
        "
        price-optimization server POST /v1/quotes -> price-optimization internal quote
        price-optimization internal quote -> price-optimization internal dataflow events
        driver-management producer publish surge.v1.supply ~> price-optimization internal dataflow events
        ride-management producer publish surge.v1.demand ~> price-optimization internal dataflow events
        driver-management producer publish surge.v1.supply ~> price-optimization consumer process surge.v1.supply
        ride-management producer publish surge.v1.demand ~> price-optimization consumer process surge.v1.demand
        ",
    )
    .await
}

#[tokio::test]
async fn quotes_by_hand_are_traced_floods_are_not() -> Outcome {
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
async fn what_is_told_of_drivers_and_rides_is_linked_to_the_requests_behind_it() -> Outcome {
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
        driver-management server PUT /v1/drivers/{driver_id} -> driver-management client SELECT driver
        driver-management server PUT /v1/drivers/{driver_id} -> driver-management client UPDATE driver
        driver-management server PUT /v1/drivers/{driver_id} ~> driver-management producer publish surge.v1.supply
        driver-management server PUT /v1/drivers/{driver_id} ~> driver-management internal write positions
        driver-management internal write positions -> driver-management client UPDATE driver, replica
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
                newest(&exchange, DEMAND, "publish ride.demand_watermark", ONE_ORIGIN).await?,
            ])
        },
        "
        ride-management server POST /v1/rides -> ride-management client INSERT ride
        ride-management server POST /v1/rides -> ride-management client surge.v1.SupplyService/Dispatch
        ride-management client surge.v1.SupplyService/Dispatch -> driver-management server surge.v1.SupplyService/Dispatch
        driver-management server surge.v1.SupplyService/Dispatch -> driver-management client INSERT dispatch
        driver-management server surge.v1.SupplyService/Dispatch -> driver-management client UPDATE driver, dispatch
        driver-management server surge.v1.SupplyService/Dispatch -> driver-management client COMMIT
        ride-management server POST /v1/rides -> ride-management client UPDATE ride
        ride-management server POST /v1/rides ~> ride-management producer publish surge.v1.demand
        ride-management server POST /v1/rides ~> ride-management internal publish ride.demand_watermark
        ride-management internal publish ride.demand_watermark -> ride-management client SELECT journal
        ride-management internal publish ride.demand_watermark -> ride-management client UPDATE replica
        ",
    )
    .await?;
    exchange.close().await
}

/// Compares the edges that lead to a quote, and to the newest of each of these `operations` of
/// price-optimization, with those expected.
async fn compare_edges(mode: DataflowMode, operations: &[&str], expected: &str) -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let quote = quoted(&exchange, mode).await?;
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

/// Waits until the edges that lead to these traces are those expected: one a line, `->` to a child
/// and `~>` by a link.
async fn expect_edges(
    exchange: &Exchange,
    roots: impl AsyncFn() -> anyhow::Result<Vec<String>>,
    expected: &str,
) -> Outcome {
    let lines = expected.lines().map(str::trim);
    let expected: BTreeSet<&str> = lines.filter(|line| !line.is_empty()).collect();
    eventually("the edges are those expected", async || {
        let edges = edges_behind(exchange, roots().await?).await?;
        let edges: BTreeSet<&str> = edges.iter().map(String::as_str).collect();
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

/// The newest trace with such a span; `tags` as the search takes them, percent-encoded.
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

/// Every edge of these traces and of all that they are linked to, however far back.
async fn edges_behind(exchange: &Exchange, roots: Vec<String>) -> anyhow::Result<BTreeSet<String>> {
    let mut traces: BTreeMap<String, Trace> = BTreeMap::new();
    let mut to_open: VecDeque<String> = roots.into();
    while let Some(id) = to_open.pop_front() {
        if traces.contains_key(&id) {
            continue;
        }
        ensure!(traces.len() < MAX_TRACES, "links without end: {traces:?}");
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
    /// What the collector has of it so far.
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
