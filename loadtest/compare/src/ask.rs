//! The command `ask`: the load engine by itself, on one address, without a city or an oracle.
//!
//! By it the engine is held against other load generators, and its own honesty is tested. It always asks for the same
//! trip, so that any tool can ask the same.

use std::sync::{Arc, Once};
use std::time::Duration;

use anyhow::Context as _;
use marketplace::{Position, SurgePolicy};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use surge_proto::DataflowMode;
use tokio_util::sync::CancellationToken;

use crate::capacity::{self, Capacities};
use crate::measure::{Measured, Oracle, RoundRobin};
use crate::{Arrivals, LatencyMicros, report, verdict};
use engine::search::Search;
use engine::{LoadPlan, LoadThread, QuoteClient, QuoteRequest, Transport};

/// What to ask, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Base URL of what gives quotes: a price-optimization or a bare server
    url: String,

    /// How quotes are asked
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    transport: Transport,

    /// The dataflow to ask for
    #[arg(long, default_value = "events", value_name = "MODE")]
    mode: DataflowMode,

    /// Quotes a second
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200_000))]
    rate: u32,

    /// For how long, in real seconds
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,

    /// How arrivals follow one another
    #[arg(long, value_enum, default_value_t, value_name = "SHAPE")]
    arrivals: Arrivals,

    /// Seed of Poisson arrivals
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,

    /// Look for the highest rate that holds, as `compare` does, with probes of so many seconds; --rate is the first one
    #[arg(long)]
    capacity: bool,
}

/// What came of it; printed as JSON.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Whether the figures may be believed.
    pub valid: bool,
    /// Why not.
    pub void_reasons: Vec<String>,
    /// Quotes asked a second.
    pub rate_per_s: u32,
    /// Quotes answered and found right.
    pub quotes: u64,
    /// Quotes asked that brought no right answer.
    pub errors: u64,
    /// From the intended send to the complete answer.
    pub latency_us: LatencyMicros,
    /// How late the engine itself was.
    pub late_us: LatencyMicros,
    /// Age of the data behind the quotes that told one, in real time.
    pub data_age: DataAge,
    /// Processor time of this process for one quote.
    pub cpu_us_per_quote: Option<f64>,
    /// Whether it was stopped before its end.
    #[serde(skip)]
    interrupted: bool,
}

/// What can be held against the service's own histogram of data age.
#[derive(Debug, Serialize)]
pub struct DataAge {
    /// Quotes that told an age.
    pub count: u64,
    /// Their mean, to three digits each.
    pub mean_ms: Option<f64>,
}

/// Asks until the end or Ctrl-C and prints what came; returns the code to exit with, as `compare` does.
///
/// # Errors
/// When the address is none, or does not give a single quote.
pub async fn run(args: Args) -> anyhow::Result<u8> {
    let stop = city::interrupt::on_signal();
    let quotes = quotes(&args)?;
    let (pickup, dropoff) = (quotes.trips)(0);
    let question = QuoteRequest::new(args.mode, pickup, dropoff);
    let first = quotes.desk.ask(question).await;
    first.with_context(|| format!("{} gives no quote in mode {}", args.url, args.mode))?;
    let rate = if args.capacity {
        let found = search(&args, &quotes, &stop).await;
        found.context("no rate holds: no quotes within the limit even at the lowest rate")?
    } else {
        args.rate
    };
    let answer = once(&args, rate, &quotes, &stop).await;
    anstream::println!("{}", serde_json::to_string(&answer)?);
    Ok(answer.exit_code())
}

/// Far more than any search takes.
const MOST_TRIES: u32 = 60;

/// The last run is made again at the rate that was found, so that its figures are told.
async fn search(args: &Args, quotes: &RoundRobin, stop: &CancellationToken) -> Option<u32> {
    let search = Search {
        stride: 2.0,
        precision: 1.05,
        most_tries: MOST_TRIES,
    };
    let holds = async |rate| {
        let measured = quotes.run(plan(args, rate), stop.clone()).await;
        !stop.is_cancelled() && capacity::is_sustained(&measured, args.mode)
    };
    search.highest(args.rate, holds).await
}

async fn once(args: &Args, rate: u32, quotes: &RoundRobin, stop: &CancellationToken) -> Answer {
    let before = processor_micros();
    let measured = quotes.run(plan(args, rate), stop.clone()).await;
    let used = processor_micros() - before;
    Answer::of(&measured, args.mode, rate, used, stop.is_cancelled())
}

impl Answer {
    fn of(
        measured: &Measured,
        mode: DataflowMode,
        rate_per_s: u32,
        used_micros: f64,
        interrupted: bool,
    ) -> Self {
        let tally = measured.tally(mode);
        let void_reasons = verdict::void_reasons(measured, &Capacities::default(), interrupted);
        let lateness = measured
            .delivery
            .as_ref()
            .map(|delivery| &delivery.lateness);
        let age = &tally.data_age;
        Self {
            valid: void_reasons.is_empty(),
            void_reasons,
            rate_per_s,
            quotes: tally.quotes,
            errors: tally.errors(),
            latency_us: report::latency(&tally.latency),
            late_us: lateness.map(report::latency).unwrap_or_default(),
            data_age: DataAge {
                count: age.len(),
                mean_ms: (!age.is_empty()).then(|| age.mean() / 1_000.0),
            },
            cpu_us_per_quote: (tally.quotes > 0).then(|| used_micros / tally.quotes as f64),
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
    let desk = QuoteClient::new(thread, args.transport, &args.url, cap, DEADLINE)?;
    let place = |lat, lon| Position::new(lat, lon).context("the trip is on the globe");
    let trip = (place(40.7527, -73.9772)?, place(40.7075, -74.0113)?);
    Ok(RoundRobin {
        desk,
        modes: vec![args.mode],
        trips: Arc::new(move |_| trip),
        oracle: announcer(args),
        recorder: None,
    })
}

/// Knows no multiplier. It is called at every question, and at the first one it says that the run has begun.
fn announcer(args: &Args) -> Oracle {
    let (begun, url) = (Once::new(), args.url.clone());
    Arc::new(move |_| {
        begun.call_once(|| anstream::eprintln!("Asking {url} ..."));
        None
    })
}

fn plan(args: &Args, rate: u32) -> LoadPlan {
    let length = Duration::from_secs(args.seconds.into());
    LoadPlan {
        schedule: args.arrivals.schedule(rate, length, args.seed),
        max_in_flight: if args.capacity {
            capacity::most_in_flight(rate)
        } else {
            // What has no answer within two seconds is given up, so the bound is never met.
            rate.saturating_mul(3)
        },
        drain: DEADLINE + Duration::from_millis(500),
    }
}

/// As long as `compare` waits.
const DEADLINE: Duration = Duration::from_secs(2);

fn processor_micros() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 * 1e6 + used.tv_nsec as f64 / 1e3
}
