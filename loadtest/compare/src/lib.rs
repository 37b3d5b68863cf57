//! Compares the three dataflows on the same market at the same moment.
//!
//! The city brings the market to life; when it has warmed up, every trip is asked of each mode in turn at a fixed rate;
//! each answer is checked and held against what the city's own books say at that instant. A run that cannot be trusted
//! says so in the table, in the report and in the exit code. Then each mode is driven to its limit, in turn with bare
//! servers that stand on the same. [`run_until`] reads as the whole story.

mod args;
pub mod ask;
mod baseline;
mod capacity;
mod charts;
mod climb;
mod extent;
mod floors;
mod machine;
mod market_cost;
mod measure;
mod median;
mod page;
mod processor;
mod progress;
mod readiness;
mod receipt;
mod report;
mod scenario;
mod series;
mod stolen;
mod suite;
mod table;
mod tally;
mod trend;
mod verdict;
pub mod whole_file;
mod wording;
mod workload;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use marketplace::MarketTime;
use tokio_util::sync::CancellationToken;

pub use args::Args;
pub use baseline::{Baseline, Change, NotComparable, Verdict};
pub use climb::{Breakpoint, ClimbStep, Footing};
pub use extent::Extent;
pub use machine::Machine;
pub use market_cost::{Estimate, Figure, MarketCost, Row};
pub use report::{
    AgeMillis, Floor, Floors, Generator, LatencyMicros, Market, ModeFigures, MultiplierError,
    RateStep, Report, SCHEMA, Workload,
};
pub use scenario::Scenario;
pub use series::{CurvePoint, Interval, Moment, Probe, Series, ZoneCourse};
pub use stolen::{Stolen, StolenByPhase};
pub use workload::Arrivals;

use self::capacity::{Capacities, Searches};
use self::measure::{Measured, RoundRobin};
use self::progress::{Progress, Steps};
use self::series::{Recorder, Surveyor};
use self::suite::{QUOTE_DEADLINE, Suite};
use city::clock::MarketClock;
use city::interrupt::INTERRUPTED;
use city::{City, CityConfig, Crowd, OfflineSimulation};
use engine::{LoadPlan, Schedule};

/// Compares as asked, prints the table and writes the reports; Ctrl-C gives the partial result, marked as void.
///
/// # Errors
/// When there was nothing to measure: a service or a mode is missing, or the run was interrupted before it began. Also
/// when a report cannot be written, after the table was printed.
pub async fn run(args: Args) -> anyhow::Result<Outcome> {
    run_until(args, city::interrupt::on_signal()).await
}

/// [`run`], but stopped by the caller.
///
/// # Errors
/// As [`run`].
pub async fn run_until(args: Args, stop: CancellationToken) -> anyhow::Result<Outcome> {
    if let Some(path) = &args.from {
        return redraw(path, &args);
    }
    let started_at = Utc::now();
    let progress = Progress::on_stderr();
    let suite = Suite::of(&args)?;
    let readied = stop.run_until_cancelled(suite.ready(&args));
    let (clock, mut warnings) = readied.await.ok_or(Interrupted)??;

    progress.say(&format!(
        "Scenario {}: {}",
        args.scenario.name(),
        args.scenario.purpose()
    ));
    // Before a minute is spent on what could not be compared in the end.
    let older = args.older(&clock)?;

    progress.say("Starting the city ...");
    let mut config = args.replay.config(suite.target.clone())?;
    config.crowds = live_crowds(&args, &clock);
    let evening = evening(&args, &config, clock.now());
    let city = City::start(config, suite.client.clone()).await?;
    let comparison = Comparison::new(&args, &suite, city, clock);
    let mut stolen = StolenByPhase::default();
    let (measured, map) = comparison.hold(progress, &mut stolen, &stop).await;
    let climbed = stolen::during(comparison.climb(progress, &stop)).await;
    let searches = Searches::of(args.effort(), args.distinct_modes().len());
    let capacities = comparison
        .drive_to_the_limit(&suite, &searches, progress, &stop)
        .await;
    let void_reasons = verdict::void_reasons(&measured, &capacities, stop.is_cancelled());
    let figures = (&measured, &capacities);
    let series = Series::of(&measured, &capacities, &comparison.recorder, map);
    let mut report = comparison.close(figures, started_at, void_reasons).await;
    report.series = series;
    (report.breakpoint, stolen.climb) =
        (climbed.0, climbed.1.filter(|_| report.breakpoint.is_some()));
    let aged = stolen::during(what_age_costs(&report, evening, &args, progress, &stop)).await;
    (report.market_cost, stolen.market) = aged;
    let interrupted = stop.is_cancelled();
    report.extent = Some(extent(&report, &measured, &searches, &args, interrupted));
    report.stolen = stolen.with(&capacities);

    warnings.append(&mut report.warnings);
    warnings.extend(capacities.warnings);
    warnings.extend(verdict::warnings(&report));
    report.warnings = warnings;
    report.baseline = older.map(|older| older.changes_to(&report));
    receipt::publish(&report, &args)?;
    Ok(Outcome {
        report,
        interrupted,
    })
}

/// Prints the table and writes the page of an older comparison, from its figures alone.
fn redraw(path: &Path, args: &Args) -> anyhow::Result<Outcome> {
    let report = receipt::read(path)?;
    receipt::redraw(&report, args)?;
    Ok(Outcome {
        report,
        interrupted: false,
    })
}

/// The crowds of the scenario, in the measurement that is about to begin.
fn live_crowds(args: &Args, clock: &MarketClock) -> Vec<Crowd> {
    let start = clock.now() + clock.market(args.warmup(clock));
    let length = Duration::from_secs(args.measured_seconds().into());
    args.scenario.live_crowds(start, clock.market(length))
}

/// The evening of this day, with the residents of this city and the crowds of the scenario.
fn evening(args: &Args, city: &CityConfig, now: MarketTime) -> Option<OfflineSimulation> {
    let (profile, scored) = (city.profile.clone(), args.scenario.scored(now, args.quick));
    let evening = OfflineSimulation::new(
        city.service_area,
        profile,
        &city.pickups,
        city.fleet,
        scored,
    );
    Some(evening?.with_crowds(args.scenario.evening_crowds(now)))
}

/// How far the run came; a climb has no length of its own, and is left out.
fn extent(
    report: &Report,
    measured: &Measured,
    searches: &Searches,
    args: &Args,
    interrupted: bool,
) -> Extent {
    let paced = measured.paced_for().unwrap_or_default();
    Extent {
        complete: !interrupted && searches.steps().is_done(),
        planned_s: args.measured_seconds().into(),
        measured_s: paced.as_secs_f64(),
        planned_searches: searches.planned(),
        searches: searches.done(),
        most_market_seeds: args.seeds().most,
        market_seeds: report.market_cost.as_ref().map_or(0, |cost| cost.seeds),
    }
}

/// Lives evenings off the wire, with data as old as it was measured.
async fn what_age_costs(
    report: &Report,
    evening: Option<OfflineSimulation>,
    args: &Args,
    progress: Progress,
    stop: &CancellationToken,
) -> Option<MarketCost> {
    let mut candidates = market_cost::of_modes(&report.modes, report.workload.speed);
    candidates.extend(args.scenario.dial(evening.as_ref()?.scored().start));
    market_cost::study(evening, candidates, args.seeds(), progress, stop).await
}

/// What a comparison came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The figures, as in `compare.json`.
    pub report: Report,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

impl Outcome {
    /// The code to exit with: 0 for a valid run, 130 for an interrupted one, 1 for one that is void.
    pub const fn exit_code(&self) -> u8 {
        match (self.interrupted, self.report.valid) {
            (true, _) => INTERRUPTED,
            (false, true) => 0,
            (false, false) => 1,
        }
    }
}

/// The code to exit with after a failure: 130 when interrupted, 2 for a baseline that is none, 1 for anything else.
pub fn exit_code_of(error: &anyhow::Error) -> u8 {
    if error.is::<Interrupted>() {
        INTERRUPTED
    } else if error.is::<NotComparable>() {
        2
    } else {
        1
    }
}

/// The run was stopped before there was anything to report.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted before anything was measured")]
pub struct Interrupted;

/// Quotes that may be under way at once, those included that wait for a line. A quote that has no answer within
/// [`QUOTE_DEADLINE`] is given up, so up to 32,000 a second the bound is never met, whatever the service does.
const MAX_IN_FLIGHT: u32 = 65_536;

/// What a call that was cut off may need to end.
const GRACE: Duration = Duration::from_millis(500);

/// The end of the warm-up runs under the full load, unrecorded: caches, pools and connections have their first time.
const REHEARSAL: Duration = Duration::from_secs(2);

/// One comparison on a running city.
struct Comparison<'a> {
    args: &'a Args,
    city: City,
    clock: MarketClock,
    quotes: RoundRobin,
    recorder: Arc<Recorder>,
    surveyor: Surveyor,
}

impl<'a> Comparison<'a> {
    fn new(args: &'a Args, suite: &Suite, city: City, clock: MarketClock) -> Self {
        let (books, trips) = (city.ground_truth(), city.trips());
        let zones = books.area().zones().to_vec();
        let trip = move |n| {
            let trip = trips.nth(n);
            (trip.pickup, trip.dropoff)
        };
        let quotes = RoundRobin {
            desk: suite.desk.clone(),
            modes: args.distinct_modes(),
            trips: Arc::new(trip),
            oracle: Arc::new(move |zone| books.multiplier(zone, clock.now())),
            recorder: None,
        };
        let recorder = Recorder::new(&quotes.modes, args.measured_seconds());
        Self {
            args,
            city,
            clock,
            recorder: Arc::new(recorder),
            surveyor: Surveyor {
                client: suite.client.clone(),
                price: suite.target.price.clone(),
                clock,
                modes: quotes.modes.clone(),
                zones,
                oracle: Arc::clone(&quotes.oracle),
            },
            quotes,
        }
    }

    /// Warms up, then measures; what is left out because of `stop` is missing from the result.
    async fn hold(
        &self,
        progress: Progress,
        stolen: &mut StolenByPhase,
        stop: &CancellationToken,
    ) -> (Measured, Vec<Moment>) {
        (_, stolen.warm_up) = stolen::during(self.warm_up(progress, stop)).await;
        if stop.is_cancelled() {
            return (Measured::nothing(&self.quotes.modes), Vec::new());
        }
        let length = Duration::from_secs(self.args.measured_seconds().into());
        let (from, begun) = (self.clock.now(), Instant::now());
        let recorded = RoundRobin {
            recorder: Some(Arc::clone(&self.recorder)),
            ..self.quotes.clone()
        };
        let schedule = self.args.scenario.schedule(self.args.rate, length);
        let schedule = schedule.unwrap_or_else(|| self.level(length));
        let progress = progress.followed_by(self.after_the_measurement());
        let load = self.load(&recorded, "measuring", schedule, progress, stop);
        let survey = stop.run_until_cancelled(self.surveyor.survey(length));
        let (mut measured, map) = tokio::join!(load, survey);
        let until = self.clock.now();
        measured.clock_set_by_s = self.clock.set_by(from, until, begun.elapsed());
        measured.market = Some((from, until));
        stolen.measurement = measured.stolen;
        (measured, map.unwrap_or_default())
    }

    async fn warm_up(&self, progress: Progress, stop: &CancellationToken) {
        let warmup = self.args.warmup(&self.clock);
        let quiet = warmup.saturating_sub(REHEARSAL);
        let measurement = Duration::from_secs(self.args.measured_seconds().into());
        let later = measurement + self.after_the_measurement();
        let wait = stop.run_until_cancelled(tokio::time::sleep(quiet));
        let rehearsal = REHEARSAL.min(warmup);
        progress
            .followed_by(rehearsal + later)
            .during("warming up", quiet, || self.state_of_the_city(), wait)
            .await;
        if !stop.is_cancelled() {
            let (schedule, progress) = (self.level(rehearsal), progress.followed_by(later));
            self.load(&self.quotes, "rehearsing", schedule, progress, stop)
                .await;
        }
    }

    /// The rate of the command line, as its arrivals follow one another.
    fn level(&self, length: Duration) -> Schedule {
        let (rate, seed) = (self.args.rate, self.args.replay.seed);
        self.args.arrivals.schedule(rate, length, seed)
    }

    async fn load(
        &self,
        quotes: &RoundRobin,
        title: &str,
        schedule: Schedule,
        progress: Progress,
        stop: &CancellationToken,
    ) -> Measured {
        let length = schedule.length();
        let plan = LoadPlan {
            schedule,
            max_in_flight: MAX_IN_FLIGHT,
            drain: QUOTE_DEADLINE + GRACE,
        };
        let quotes = quotes.run(plan, stop.clone());
        progress
            .during(title, length, || self.state_of_the_city(), quotes)
            .await
    }

    /// Looks for the breaking point, where the scenario wants it.
    async fn climb(&self, progress: Progress, stop: &CancellationToken) -> Option<Breakpoint> {
        let plan = self.args.scenario.climb()?;
        if stop.is_cancelled() {
            return None;
        }
        let climbed = climb::climb(&self.quotes, plan, self.args.rate, stop);
        let (length, detail) = (climb::estimate(plan), || self.state_of_the_city());
        let progress = progress.followed_by(self.search_length() + self.args.seeds().length());
        Some(progress.during("climbing", length, detail, climbed).await)
    }

    /// Looks for the capacities of all modes and floors, while the city lives on.
    async fn drive_to_the_limit(
        &self,
        suite: &Suite,
        searches: &Searches,
        progress: Progress,
        stop: &CancellationToken,
    ) -> Capacities {
        let (modes, effort) = (&self.quotes.modes, self.args.effort());
        if effort.rounds == 0 || stop.is_cancelled() {
            return Capacities::default();
        }
        let trips = Arc::clone(&self.quotes.trips);
        let measured = capacity::measure(suite, modes, trips, effort, searches, stop);
        let detail = || {
            let Steps { done, all } = searches.steps();
            format!("{done} of {all} searches, {}", self.state_of_the_city())
        };
        let progress = progress.followed_by(self.args.seeds().length());
        let shown = progress.stepwise(
            "capacity",
            self.search_length(),
            || searches.steps(),
            detail,
            measured,
        );
        let (mut capacities, stolen) = stolen::during(shown).await;
        capacities.stolen = stolen;
        capacities
    }

    /// About how long the search for capacities takes.
    fn search_length(&self) -> Duration {
        self.args.effort().estimate(self.quotes.modes.len())
    }

    /// About how long everything takes that comes after the measurement.
    fn after_the_measurement(&self) -> Duration {
        let climb = self.args.scenario.climb().map(climb::estimate);
        climb.unwrap_or_default() + self.search_length() + self.args.seeds().length()
    }

    fn state_of_the_city(&self) -> String {
        let city = self.city.progress();
        format!(
            "market {}, {} requests, {} rides completed, {} unserved",
            wording::time_of_day(city.market_time),
            city.requests,
            city.completed,
            city.unserved
        )
    }

    /// Ends the city and puts everything on record.
    async fn close(
        self,
        (measured, capacities): (&Measured, &Capacities),
        started_at: DateTime<Utc>,
        void_reasons: Vec<String>,
    ) -> Report {
        let workload = self.args.workload(&self.clock);
        let outcome = self.city.stop().await;
        let report = Report {
            schema: SCHEMA.to_owned(),
            started_at: started_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            git: machine::git_commit(),
            machine: Machine::here(),
            workload,
            valid: void_reasons.is_empty(),
            void_reasons,
            extent: None,
            stolen: StolenByPhase::default(),
            warnings: outcome.warnings.clone(),
            modes: report::figures(measured, capacities),
            floors: Floors::of(capacities),
            generator: Generator::of(capacities),
            market_cost: None,
            breakpoint: None,
            city: Market {
                fleet: self.args.replay.fleet,
                measured_from: measured.market.map(|(from, _)| from.to_string()),
                measured_until: measured.market.map(|(_, until)| until.to_string()),
                outcome: Some(outcome),
            },
            baseline: None,
            series: Series::default(),
        };
        report.without_what_another_transport_told()
    }
}
