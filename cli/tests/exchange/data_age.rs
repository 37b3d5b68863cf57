//! The data age in answers, which the load engine reads, equals that in the service's histogram:
//! for the same quotes, over HTTP and over gRPC.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use engine::{
    Arrival, CheckedQuote, LoadPlan, LoadThread, QuoteClient, QuoteConnection, QuoteFailure,
    QuoteQuery, Schedule, Transport,
};
use marketplace::Multiplier;
use surge_proto::DataflowMode;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{MODES, downtown, grand_central, wall_street},
    support::{Exchange, Market, Outcome, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn service_and_engine_agree_on_age() -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    exchange.api.goes_online(grand_central()).await?;
    for mode in MODES {
        eventually("the mode has data", async || {
            let quote = exchange.api.quote(downtown(), mode).await?;
            quote.data_age_ms.context("no data yet")
        })
        .await?;
        for transport in [Transport::Http, Transport::Grpc] {
            agree(&exchange, transport, mode)
                .await
                .with_context(|| format!("dataflow {mode} over {transport:?}"))?;
        }
    }
    exchange.close().await
}

/// Compares the ages of some quotes with the growth of the service's histogram.
async fn agree(exchange: &Exchange, transport: Transport, mode: DataflowMode) -> Outcome {
    let before = Exposed::read(exchange, mode).await?;
    let ages = ages_of_answers(exchange, transport, mode).await?;
    let after = Exposed::read(exchange, mode).await?;

    ensure!(after.count - before.count == ages.len() as u64);
    let answered: f64 = ages.iter().map(Duration::as_secs_f64).sum();
    let counted = after.sum - before.sum;
    // An answer has a resolution of a nanosecond; the sum loses less.
    let tolerance = 2e-9 * ages.len() as f64;
    ensure!(
        (counted - answered).abs() <= tolerance,
        "{counted} s, not {answered} s"
    );
    for ((bound, after), (_, before)) in after.buckets.iter().zip(&before.buckets) {
        let within = ages
            .iter()
            .filter(|age| age.as_secs_f64() <= *bound)
            .count() as u64;
        ensure!(
            after - before == within,
            "up to {bound} s: {} of {within}",
            after - before
        );
    }
    Ok(())
}

/// The data age of every quote of a short load.
async fn ages_of_answers(
    exchange: &Exchange,
    transport: Transport,
    mode: DataflowMode,
) -> anyhow::Result<Vec<Duration>> {
    let url = match transport {
        Transport::Http => exchange.stack.target().price,
        Transport::Grpc => exchange.stack.quotes_grpc_url(),
    };
    let cap = Multiplier::from_tenths(30).context("3.0 is a multiplier")?;
    let client = QuoteClient::new(LoadThread::start()?, transport, &url, cap, DEADLINE)?;
    let outcomes: Arc<Mutex<Vec<Result<CheckedQuote, QuoteFailure>>>> = Arc::default();
    let results = Arc::clone(&outcomes);
    let ask = move |mut connection: QuoteConnection, arrival: Arrival| {
        let results = Arc::clone(&results);
        async move {
            // Trips in both directions, so that quotes come from two zones.
            let (pickup, dropoff) = match arrival.index % 2 {
                0 => (grand_central(), wall_street()),
                _ => (wall_street(), grand_central()),
            };
            let query = QuoteQuery::new(mode, pickup, dropoff);
            let (_, outcome) = connection.ask(&query, arrival.intended).await;
            results.lock().expect("no test panics here").push(outcome);
            connection
        }
    };
    let sent = client.run(plan(), CancellationToken::new(), ask).await;
    let outcomes = outcomes.lock().expect("no test panics here").clone();
    ensure!(sent.sent == QUOTES && outcomes.len() as u64 == QUOTES);
    let mut ages = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(quoted) => ages.push(quoted.data_age.context("a quote without data")?),
            Err(failure) if failure.is_wrong_answer() => return Err(failure.into()),
            // The machine is busy; a refused quote has no age, on either side.
            Err(_refused) => {}
        }
    }
    ensure!(
        2 * ages.len() as u64 > QUOTES,
        "{} quotes of {QUOTES}",
        ages.len()
    );
    Ok(ages)
}

/// Longer than any wait inside the services.
const DEADLINE: Duration = Duration::from_secs(10);

const QUOTES: u64 = 120;

fn plan() -> LoadPlan {
    LoadPlan {
        schedule: Schedule::constant(60, Duration::from_secs(2)),
        max_in_flight: 1_024,
        drain: 2 * DEADLINE,
    }
}

/// `surge_data_age_seconds` of one mode, as the service exposes it.
struct Exposed {
    count: u64,
    sum: f64,
    /// Upper bounds with the number of quotes up to there.
    buckets: Vec<(f64, u64)>,
}

impl Exposed {
    async fn read(exchange: &Exchange, mode: DataflowMode) -> anyhow::Result<Self> {
        let url = format!("{}/metrics", exchange.stack.target().price);
        let answer = city::Client::new(DEADLINE).get(&url).await?;
        let text = String::from_utf8(answer.body.to_vec())?;
        let of_mode = format!("dataflow=\"{mode}\"");
        let samples = |name: &str| {
            let name = format!("surge_data_age_seconds_{name}{{");
            let lines = text.lines().filter(move |line| line.starts_with(&name));
            lines
                .filter(|line| line.contains(&of_mode))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let only = |name| {
            let samples = samples(name);
            value(samples.first().context("no such sample")?)
        };
        let buckets = samples("bucket").into_iter().map(|line| {
            let bound = line
                .split("le=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next());
            let bound = bound
                .context("a bucket has a bound")?
                .replace("+Inf", "inf");
            Ok((bound.parse()?, value(&line)? as u64))
        });
        Ok(Self {
            count: only("count")? as u64,
            sum: only("sum")?,
            buckets: buckets.collect::<anyhow::Result<_>>()?,
        })
    }
}

/// The value of a sample; what follows `#` is its exemplar.
fn value(sample: &str) -> anyhow::Result<f64> {
    let sample = sample.split(" # ").next().unwrap_or(sample);
    let value = sample.split_whitespace().next_back();
    Ok(value.context("a sample has a value")?.parse()?)
}
