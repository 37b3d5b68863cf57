//! The command `ask`: the load engine by itself, on one address, without a city or an oracle.
//!
//! It serves to compare the engine with other load generators, and to test its honesty. It always
//! requests the same trip, so that any tool can request the same.

use std::sync::{Arc, Once};
use std::time::Duration;

use anyhow::Context as _;
use engine::search::Search;
use engine::{LoadThread, QuoteClient, QuoteQuery, Transport};
use marketplace::{Position, SurgePolicy};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use surge_proto::DataflowMode;
use tokio_util::sync::CancellationToken;

use crate::judge::void_reasons;
use crate::measure::capacity::{self, Capacities};
use crate::measure::mode_statistics::percentiles;
use crate::measure::round_robin::{LoadResult, Oracle, QUOTE_DEADLINE, RoundRobin};
use crate::measure::schedule;
use crate::report::{Arrivals, LatencyMicros};

/// The options of `ask`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Base URL of a price-optimization or of a bare server
    url: String,

    /// Protocol of the quotes
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    transport: Transport,

    /// The dataflow
    #[arg(long, default_value = "events", value_name = "MODE")]
    mode: DataflowMode,

    /// Quotes a second
    #[arg(long, default_value_t = 300, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=200_000))]
    rate: u32,

    /// Length in real seconds
    #[arg(long, default_value_t = 10, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,

    /// How arrivals follow one another
    #[arg(long, value_enum, default_value_t, value_name = "SHAPE")]
    arrivals: Arrivals,

    /// Seed of Poisson arrivals
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,

    /// Search for the highest rate that the server sustains, as `compare` does, with probes of
    /// --seconds; --rate is the first one
    #[arg(long)]
    capacity: bool,
}

/// The result, printed as JSON.
#[derive(Debug, Serialize)]
pub struct AskAnswer {
    /// Whether the figures may be believed.
    pub valid: bool,
    /// Why not.
    pub void_reasons: Vec<String>,
    /// Quotes requested per second.
    pub rate_per_s: u32,
    /// Quotes answered and found right.
    pub quotes: u64,
    /// Quotes requested that brought no right answer.
    pub errors: u64,
    /// From the intended send to the complete answer.
    pub latency_us: LatencyMicros,
    /// How late the engine itself was.
    pub late_us: LatencyMicros,
    /// Age of the data behind the quotes that have one, in real time.
    pub data_age: DataAge,
    /// Processor time of this process for one quote.
    pub cpu_us_per_quote: Option<f64>,
    /// Whether it was stopped before its end.
    #[serde(skip)]
    interrupted: bool,
}

/// Can be compared with the service's own histogram of data age.
#[derive(Debug, Serialize)]
pub struct DataAge {
    /// Quotes with an age.
    pub count: u64,
    /// Their mean, to three digits each.
    pub mean_ms: Option<f64>,
}

/// Requests quotes until the end or Ctrl-C and prints the result; returns the code to exit with, as
/// `compare` does.
///
/// # Errors
/// When the address is none, or does not give a single quote.
pub async fn run(args: Args) -> anyhow::Result<u8> {
    let stop = city::interrupt::on_signal();
    let quotes = quotes(&args)?;
    let (pickup, dropoff) = (quotes.trips)(0);
    let first = quotes
        .client
        .ask(QuoteQuery::new(args.mode, pickup, dropoff))
        .await;
    first.with_context(|| format!("{} gives no quote in mode {}", args.url, args.mode))?;
    let rate = if args.capacity {
        let found = search(&args, &quotes, &stop).await;
        found.context(
            "the server sustains no rate: not all quotes within the limit even at the lowest",
        )?
    } else {
        args.rate
    };
    let before = processor_micros();
    let load = load(&args, rate, &quotes, &stop).await;
    let used = processor_micros() - before;
    let answer = AskAnswer::of(&load, args.mode, rate, used, stop.is_cancelled());
    city::output::say(serde_json::to_string(&answer)?)?;
    Ok(answer.exit_code())
}

/// The last run is made again at the rate that was found, for its figures.
async fn search(args: &Args, quotes: &RoundRobin, stop: &CancellationToken) -> Option<u32> {
    let search = Search {
        stride: 2.0,
        precision: 1.05,
        // Far more than any search takes.
        most_tries: 60,
    };
    let holds = async |rate| {
        let load = load(args, rate, quotes, stop).await;
        !stop.is_cancelled() && capacity::is_sustained(&load, args.mode)
    };
    search.highest(args.rate, holds).await
}

async fn load(args: &Args, rate: u32, quotes: &RoundRobin, stop: &CancellationToken) -> LoadResult {
    let length = Duration::from_secs(args.seconds.into());
    let max_in_flight = if args.capacity {
        capacity::most_in_flight(rate)
    } else {
        // A quote without an answer is given up after two seconds, so the bound is never met.
        rate.saturating_mul(3)
    };
    let schedule = schedule(args.arrivals, rate, length, args.seed);
    quotes.run(schedule, max_in_flight, stop).await
}

impl AskAnswer {
    fn of(
        load: &LoadResult,
        mode: DataflowMode,
        rate_per_s: u32,
        used_micros: f64,
        interrupted: bool,
    ) -> Self {
        let statistics = &load.modes[&mode];
        let void_reasons = void_reasons(load, &Capacities::default(), interrupted);
        let age = &statistics.data_age;
        Self {
            valid: void_reasons.is_empty(),
            void_reasons,
            rate_per_s,
            quotes: statistics.quotes,
            errors: statistics.errors(),
            latency_us: percentiles(&statistics.latency),
            late_us: load
                .sent
                .as_ref()
                .map(|sent| percentiles(&sent.lateness))
                .unwrap_or_default(),
            data_age: DataAge {
                count: age.len(),
                mean_ms: (!age.is_empty()).then(|| age.mean() / 1_000.0),
            },
            cpu_us_per_quote: (statistics.quotes > 0)
                .then(|| used_micros / statistics.quotes as f64),
            interrupted,
        }
    }

    const fn exit_code(&self) -> u8 {
        match (self.interrupted, self.valid) {
            (true, _) => city::interrupt::INTERRUPTED,
            (false, true) => 0,
            (false, false) => 1,
        }
    }
}

fn quotes(args: &Args) -> anyhow::Result<RoundRobin> {
    let thread = LoadThread::start().context("no thread for the load")?;
    let cap = SurgePolicy::default().effective_cap();
    let place = |lat, lon| Position::new(lat, lon).context("the trip is on the globe");
    let trip = (place(40.7527, -73.9772)?, place(40.7075, -74.0113)?);
    Ok(RoundRobin {
        client: QuoteClient::new(thread, args.transport, &args.url, cap, QUOTE_DEADLINE)?,
        modes: vec![args.mode],
        trips: Arc::new(move |_| trip),
        oracle: announcer(args),
        time_series: None,
    })
}

/// Knows no multiplier. It is called for every quote, and at the first one it says that the run has
/// begun.
fn announcer(args: &Args) -> Oracle {
    let (begun, url) = (Once::new(), args.url.clone());
    Arc::new(move |_| {
        begun.call_once(|| city::output::note(format_args!("Asking {url} ...")));
        None
    })
}

fn processor_micros() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 * 1e6 + used.tv_nsec as f64 / 1e3
}
