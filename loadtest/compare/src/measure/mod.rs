//! Measures: everything that a comparison finds out, before anything is judged or printed.
//!
//! **How this works.** Start to read at [`run`], which has the phases in their order:
//!
//! ```text
//! city starts          or the comparison joins the one that lives
//! warm-up              the city alone, then the full load, unrecorded
//! measurement          all modes in turn, recorded
//! stress ramp          all modes, faster and faster            (where the scenario has one)
//! capacities           one mode or floor at a time
//! city ends            if it started here
//! simulated evenings   no services, all processors
//! ```
//!
//! While quotes are measured, the city lives on the same services. What is left out because of
//! Ctrl-C is missing from the result.

pub(crate) mod capacity;
mod cpu_steal;
mod cpu_time;
mod floors;
pub(crate) mod machine;
mod market_cost;
pub(crate) mod mode_statistics;
mod price_map;
mod progress;
pub(crate) mod round_robin;
mod services;
mod stress_ramp;
mod time_series;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use city::clock::CityClock;
use city::{CityConfig, CityOutcome, Crowd, LiveCity, OfflineSimulation};
use engine::Schedule;
use marketplace::MarketTime;
use surge_proto::{DataflowMode, FloorKind};
use tokio_util::sync::CancellationToken;

use self::capacity::{Capacities, Capacity, Effort, SearchCount};
use self::market_cost::{Candidate, SeedPlan};
use self::mode_statistics::{ModeStatistics, percentiles};
use self::price_map::PriceMap;
pub(crate) use self::progress::Progress;
use self::progress::Steps;
use self::round_robin::{LoadResult, MOST_IN_FLIGHT, RoundRobin};
pub(crate) use self::services::TestedServices;
use self::time_series::TimeSeries;
use crate::args::Args;
use crate::report::{
    Arrivals, Breakpoint, Coverage, Floors, Generator, MarketCost, ModeFigures, Moment, Series,
    StealByPhase, Workload,
};
use crate::statistics::rounded;
use crate::wording::time_of_day;

pub(crate) struct Run {
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) workload: Workload,
    pub(crate) fleet: usize,
    pub(crate) interrupted: bool,
    pub(crate) coverage: Coverage,
    pub(crate) load: LoadResult,
    pub(crate) capacities: Capacities,
    pub(crate) steal: StealByPhase,
    pub(crate) modes: BTreeMap<DataflowMode, ModeFigures>,
    pub(crate) series: Series,
    pub(crate) ramp: Option<Breakpoint>,
    pub(crate) market_cost: Option<MarketCost>,
    pub(crate) city: CityOutcome,
}

/// Measures on services that are ready, until the end or until `stop`.
pub(crate) async fn run(
    args: &Args,
    services: &TestedServices,
    clock: CityClock,
    progress: Progress,
    stop: &CancellationToken,
) -> anyhow::Result<Run> {
    let started_at = Utc::now();
    let mut config = args.replay.config(services.target.clone())?;
    config.crowds = live_crowds(args, &clock);
    let client = services.client.clone();
    let city =
        LiveCity::join_or_start(config.clone(), client, services.city_url.as_deref()).await?;
    if city.is_joined() {
        city::output::note("The city of these services lives already: the comparison joins it.");
    }
    let fleet = city.fleet();
    let evening = evening(args, &CityConfig { fleet, ..config }, clock.now());
    let phases = Phases::new(args, services, city, clock, progress, stop);

    let ((), warm_up) = cpu_steal::during(phases.warm_up()).await;
    let (load, map) = phases.measurement().await;
    let (ramp, ramp_steal) = cpu_steal::during(phases.stress_ramp()).await;
    let count = SearchCount::of(phases.effort, phases.quotes.modes.len());
    let capacities = phases.capacities(&count).await;
    let Phases {
        city,
        time_series,
        seeds,
        ..
    } = phases;
    let city = city.stop().await;

    let workload = args.workload(clock.speed());
    let modes = mode_figures(&load, &capacities);
    let study = async {
        // With data as old as it was measured, and with the ages of the scenario.
        let evening = evening?;
        let dial = args.scenario.dial(evening.scored().start);
        let mut candidates = market_cost::of_modes(&modes, workload.speed);
        candidates.extend(dial.into_iter().map(Candidate::unmeasured));
        market_cost::study(evening, candidates, seeds, progress, stop).await
    };
    let (market_cost, market_steal) = cpu_steal::during(study).await;
    let interrupted = stop.is_cancelled();
    Ok(Run {
        started_at,
        fleet,
        interrupted,
        coverage: Coverage {
            complete: !interrupted && count.steps().done >= count.steps().all,
            planned_s: args.measured_seconds().into(),
            measured_s: load.paced_for().as_secs_f64(),
            planned_searches: count.planned,
            searches: count.done(),
            most_market_seeds: seeds.most,
            market_seeds: market_cost.as_ref().map_or(0, |cost| cost.seeds),
        },
        steal: StealByPhase {
            warm_up,
            measurement: load.steal,
            stress_ramp: ramp_steal.filter(|_| ramp.is_some()),
            capacity: capacities.steal,
            market: market_steal,
            probes_repeated: capacities.all().map(|capacity| capacity.repeated).sum(),
            probes_spoiled: capacities.all().map(|capacity| capacity.spoiled).sum(),
        },
        series: series(&load, &capacities, &time_series, map),
        workload,
        modes,
        load,
        capacities,
        ramp,
        market_cost,
        city,
    })
}

/// The crowds of the scenario, in the measurement that is about to begin.
fn live_crowds(args: &Args, clock: &CityClock) -> Vec<Crowd> {
    let start = clock.now() + clock.market(args.warmup(clock));
    let length = clock.market(args.measured_length());
    args.scenario.live_crowds(start, length)
}

/// The evening of this day, with the residents of this city and the crowds of the scenario.
fn evening(args: &Args, city: &CityConfig, now: MarketTime) -> Option<OfflineSimulation> {
    let scored = args.scenario.scored(now, args.quick);
    let (area, profile) = (city.service_area, city.profile.clone());
    let evening = OfflineSimulation::new(area, profile, &city.pickups, city.fleet, scored);
    Some(evening?.with_crowds(args.scenario.evening_crowds(now)))
}

/// The end of the warm-up runs under the full load, unrecorded: caches, pools and connections have
/// their first use.
const REHEARSAL: Duration = Duration::from_secs(2);

/// The phases of a run on a living city.
struct Phases<'a> {
    args: &'a Args,
    services: &'a TestedServices,
    city: LiveCity,
    clock: CityClock,
    progress: Progress,
    stop: &'a CancellationToken,
    effort: Effort,
    seeds: SeedPlan,
    quotes: RoundRobin,
    time_series: Arc<TimeSeries>,
    price_map: PriceMap,
}

impl<'a> Phases<'a> {
    fn new(
        args: &'a Args,
        services: &'a TestedServices,
        city: LiveCity,
        clock: CityClock,
        progress: Progress,
        stop: &'a CancellationToken,
    ) -> Self {
        let trips = city.trips();
        let quotes = RoundRobin {
            client: services.quotes.clone(),
            modes: args.distinct_modes(),
            trips: Arc::new(move |n| {
                let trip = trips.nth(n);
                (trip.pickup, trip.dropoff)
            }),
            oracle: city.oracle(),
            time_series: None,
        };
        Self {
            time_series: Arc::new(TimeSeries::new(&quotes.modes, args.measured_seconds())),
            price_map: PriceMap {
                client: services.client.clone(),
                price: services.target.price.clone(),
                clock,
                modes: quotes.modes.clone(),
                zones: city.zones().to_vec(),
                oracle: Arc::clone(&quotes.oracle),
            },
            effort: Effort::of(args),
            seeds: SeedPlan::of(args),
            args,
            services,
            city,
            clock,
            progress,
            stop,
            quotes,
        }
    }

    /// The city lives alone, then under the full load, unrecorded.
    async fn warm_up(&self) {
        let warmup = self.args.warmup(&self.clock);
        let (quiet, rehearsal) = (warmup.saturating_sub(REHEARSAL), REHEARSAL.min(warmup));
        let later = self.args.measured_length() + self.after_the_measurement();
        let wait = self.stop.run_until_cancelled(tokio::time::sleep(quiet));
        let progress = self.progress.followed_by(rehearsal + later);
        let detail = || self.state_of_the_city();
        progress
            .during("warming up", quiet, || None, detail, wait)
            .await;
        if !self.stop.is_cancelled() {
            let schedule = self.constant_rate(rehearsal);
            self.load(&self.quotes, "rehearsing", schedule, later).await;
        }
    }

    /// All modes in turn, with a record of the course; and the map of prices beside them.
    async fn measurement(&self) -> (LoadResult, Vec<Moment>) {
        if self.stop.is_cancelled() {
            return (LoadResult::nothing(&self.quotes.modes), Vec::new());
        }
        let length = self.args.measured_length();
        let recorded = RoundRobin {
            time_series: Some(Arc::clone(&self.time_series)),
            ..self.quotes.clone()
        };
        let steps = self.args.scenario.rate_steps(self.args.rate, length);
        let schedule = if steps.is_empty() {
            self.constant_rate(length)
        } else {
            Schedule::steps(&steps)
        };
        let (from, begun) = (self.clock.now(), Instant::now());
        let later = self.after_the_measurement();
        let load = self.load(&recorded, "measuring", schedule, later);
        let map = self.stop.run_until_cancelled(self.price_map.record(length));
        let (load, map) = tokio::join!(load, map);
        let until = self.clock.now();
        let load = LoadResult {
            clock_set_by_s: self.clock.set_by(from, until, begun.elapsed()),
            market: Some((from, until)),
            ..load
        };
        (load, map.unwrap_or_default())
    }

    /// Raises the rate until a dataflow fails, where the scenario has a ramp.
    async fn stress_ramp(&self) -> Option<Breakpoint> {
        if self.stop.is_cancelled() {
            return None;
        }
        let ramp = self.args.scenario.stress_ramp()?;
        let later = self.effort.estimate(self.quotes.modes.len()) + self.seeds.length();
        let work = stress_ramp::run(&self.quotes, ramp, self.args.rate, self.stop);
        let (length, detail) = (stress_ramp::longest(ramp), || self.state_of_the_city());
        let progress = self.progress.followed_by(later);
        Some(
            progress
                .during("stress", length, || None, detail, work)
                .await,
        )
    }

    /// Searches for the capacities of all modes and floors.
    async fn capacities(&self, count: &SearchCount) -> Capacities {
        if self.effort.rounds == 0 || self.stop.is_cancelled() {
            return Capacities::default();
        }
        let (modes, trips) = (&self.quotes.modes, &self.quotes.trips);
        let work = capacity::search(self.services, modes, trips, self.effort, count, self.stop);
        let detail = || {
            let (Steps { done, all }, city) = (count.steps(), self.state_of_the_city());
            format!("{done} of {all} searches, {city}")
        };
        let progress = self.progress.followed_by(self.seeds.length());
        let length = self.effort.estimate(modes.len());
        let steps = || Some(count.steps());
        let shown = progress.during("capacity", length, steps, detail, work);
        let (capacities, steal) = cpu_steal::during(shown).await;
        Capacities {
            steal,
            ..capacities
        }
    }

    fn constant_rate(&self, length: Duration) -> Schedule {
        let Args {
            arrivals,
            rate,
            replay,
            ..
        } = self.args;
        schedule(*arrivals, *rate, length, replay.seed)
    }

    async fn load(
        &self,
        quotes: &RoundRobin,
        title: &'static str,
        schedule: Schedule,
        later: Duration,
    ) -> LoadResult {
        let length = schedule.length();
        let work = quotes.run(schedule, MOST_IN_FLIGHT, self.stop);
        let progress = self.progress.followed_by(later);
        let detail = || self.state_of_the_city();
        progress.during(title, length, || None, detail, work).await
    }

    /// About how long everything takes that comes after the measurement.
    fn after_the_measurement(&self) -> Duration {
        let ramp = self.args.scenario.stress_ramp().map(stress_ramp::longest);
        ramp.unwrap_or_default()
            + self.effort.estimate(self.quotes.modes.len())
            + self.seeds.length()
    }

    fn state_of_the_city(&self) -> String {
        let city = self.city.progress();
        format!(
            "market {}, {} requests, {} rides completed, {} unserved",
            time_of_day(city.market_time),
            city.requests,
            city.completed,
            city.unserved
        )
    }
}

pub(crate) fn schedule(arrivals: Arrivals, rate: u32, length: Duration, seed: u64) -> Schedule {
    match arrivals {
        Arrivals::Constant => Schedule::constant(rate, length),
        Arrivals::Poisson => Schedule::poisson(rate, length, seed),
    }
}

fn mode_figures(load: &LoadResult, capacities: &Capacities) -> BTreeMap<DataflowMode, ModeFigures> {
    let per_second = |count: u64, span: Duration| {
        let seconds = span.as_secs_f64();
        (seconds > 0.0).then(|| rounded(count as f64 / seconds, 1))
    };
    let figures = |(&mode, statistics): (&DataflowMode, &ModeStatistics)| {
        let (capacity, floor) = (capacities.modes.get(&mode), capacities.floors.get(&mode));
        let sustained = capacity.and_then(Capacity::median);
        let of_floor = sustained.zip(floor.and_then(Capacity::median));
        let mut error = statistics.deviation.error();
        error.mean_abs = error.mean_abs.map(|mean| rounded(mean, 4));
        error.share_off_by_0_2 = error.share_off_by_0_2.map(|share| rounded(share, 4));
        let figures = ModeFigures {
            quotes: statistics.quotes,
            errors: statistics.errors(),
            degraded: statistics.degraded,
            offered_per_s: per_second(statistics.offered, load.paced_for()),
            achieved_per_s: per_second(statistics.quotes, load.lasted()),
            latency_us: percentiles(&statistics.latency),
            data_age_ms: statistics.age_percentiles(),
            multiplier_error: error,
            capacity_per_s: sustained,
            capacity_range_per_s: capacity.and_then(Capacity::range),
            cpu_us_per_quote: capacity.and_then(Capacity::services_us_per_quote),
            share_of_floor: of_floor.map(|(mode, floor)| rounded(mode / floor, 3)),
        };
        (mode, figures)
    };
    load.modes.iter().map(figures).collect()
}

pub(crate) fn floors(capacities: &Capacities) -> Floors {
    let of = |kind| {
        capacities
            .floor(kind)
            .map_or_else(Default::default, Capacity::floor)
    };
    Floors {
        http: of(FloorKind::Http),
        rpc_fanout: of(FloorKind::RpcFanout),
        sql_row: of(FloorKind::SqlRow),
    }
}

/// The figures of the load generator, taken against the bare HTTP handler.
pub(crate) fn generator(capacities: &Capacities) -> Generator {
    let bare = capacities.floor(FloorKind::Http);
    Generator {
        ceiling_per_s: bare.and_then(Capacity::median),
        cpu_us_per_quote: bare.and_then(Capacity::generator_us_per_quote),
    }
}

fn series(
    load: &LoadResult,
    capacities: &Capacities,
    recorded: &TimeSeries,
    map: Vec<Moment>,
) -> Series {
    let curve = |(&mode, statistics): (&DataflowMode, &ModeStatistics)| {
        (mode, time_series::latency_curve(&statistics.latency))
    };
    Series {
        latency_curve: load.modes.iter().map(curve).collect(),
        probes: capacities
            .all()
            .flat_map(|capacity| capacity.probes.iter().copied())
            .collect(),
        interval_s: recorded.interval_s(),
        timeline: recorded.timeline(),
        zones: recorded.busiest_zones(),
        map,
    }
}
