//! One evening that can be simulated many times, and its simulated services, which know everything
//! and answer at once.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use marketplace::backtest::Pickup;
use marketplace::{
    Bounds, DemandProfile, MarketTime, Multiplier, ServiceArea, Zone, fare, new_york,
};
use uuid::Uuid;

use super::prices::{HalfHours, OfflinePrices};
use super::{Pricing, Score};
use crate::clock::CityClock;
use crate::crowd::Crowd;
use crate::driver::{SimulatedDriver, SimulatedRide};
use crate::executor::{CityCommand, CommandOutcome};
use crate::ground_truth::GroundTruth;
use crate::random::RandomStreams;
use crate::replay::Replay;
use crate::rider::Rider;
use crate::simulation::Simulation;

/// The plan of an offline run: the record, the fleet, and the time that counts. Clones share the
/// record.
#[derive(Debug, Clone)]
pub struct OfflineSimulation {
    area: Arc<ServiceArea>,
    profile: Arc<DemandProfile>,
    /// Inside the service area; at least one.
    pickups: Arc<[Pickup]>,
    fleet: usize,
    scored: Range<MarketTime>,
    crowds: Vec<Crowd>,
}

/// The time before the scored time. Drivers find their riders within half an hour; the rest is the
/// past behind quotes from data of an hour ago.
const WARM_UP: Duration = Duration::from_secs(90 * 60);

impl OfflineSimulation {
    /// A plan that scores the riders who appear in `scored`; `None` if the record has no pickup in
    /// the area.
    pub fn new(
        service_area: Bounds,
        profile: DemandProfile,
        pickups: &[Pickup],
        fleet: usize,
        scored: Range<MarketTime>,
    ) -> Option<Self> {
        let area = ServiceArea::new(service_area);
        let inside = |pickup: &&Pickup| area.zone_of(pickup.position).is_ok();
        let pickups: Arc<[Pickup]> = pickups.iter().filter(inside).cloned().collect();
        (!pickups.is_empty()).then(|| Self {
            area: Arc::new(area),
            profile: Arc::new(profile),
            pickups,
            fleet,
            scored,
            crowds: Vec::new(),
        })
    }

    /// The same plan with crowds.
    #[must_use]
    pub fn with_crowds(self, crowds: Vec<Crowd>) -> Self {
        Self { crowds, ..self }
    }

    /// The time whose riders count.
    pub const fn scored(&self) -> &Range<MarketTime> {
        &self.scored
    }

    /// The drivers and riders of this seed.
    pub fn population(&self, seed: u64) -> Population {
        let streams = RandomStreams::new(seed);
        let start = self.starts_at();
        let mut replay = self.replay_from(start);
        let places = replay.places();
        let crowds = (0..).zip(&self.crowds);
        let crowds = crowds.flat_map(|(number, crowd)| crowd.pickups(number));
        let replayed = replay.play(self.scored.end).into_iter().chain(crowds);
        let driver = |number| SimulatedDriver::starting(number, streams, &places, start);
        Population {
            riders: replayed
                .map(|replayed| Rider::of_pickup(&replayed, &places, streams))
                .collect(),
            fleet: (0..self.fleet as u64).map(driver).collect(),
            plan: self.clone(),
            streams,
        }
    }

    /// The record from `start` on.
    fn replay_from(&self, start: MarketTime) -> Replay {
        Replay::starting(&self.pickups, start).expect("a plan has at least one pickup")
    }

    /// The evening before, which had other riders and no crowd.
    fn a_day_earlier(&self) -> Self {
        let a_day_before = |time| new_york::days_before(time, 1);
        Self {
            scored: a_day_before(self.scored.start)..a_day_before(self.scored.end),
            crowds: Vec::new(),
            ..self.clone()
        }
    }

    fn starts_at(&self) -> MarketTime {
        self.scored.start - WARM_UP
    }

    fn empty_ground_truth(&self) -> GroundTruth {
        let (area, profile) = (Arc::clone(&self.area), Arc::clone(&self.profile));
        GroundTruth::new(area, profile, self.starts_at())
    }
}

/// The drivers and riders of one seed, to be run with one pricing after the other: the same people,
/// whatever their quotes are.
#[derive(Debug, Clone)]
pub struct Population {
    plan: OfflineSimulation,
    streams: RandomStreams,
    fleet: Vec<SimulatedDriver>,
    riders: Vec<Rider>,
}

impl Population {
    /// Runs once with this pricing.
    pub fn run(&self, pricing: Pricing) -> Score {
        let before = match pricing {
            Pricing::Nightly => self.evening_before().half_hours(),
            _ => HalfHours::default(),
        };
        let mut run = OfflineRun::of(self, pricing, before);
        run.run_until(self.plan.scored.end, |_, _| {});
        run.score
    }

    /// The drivers at the end of a run with fresh data, with their rides.
    pub(crate) fn fleet_at_end(&self) -> Vec<SimulatedDriver> {
        let mut run = OfflineRun::of(self, Pricing::FRESH, HalfHours::default());
        run.run_until(self.plan.scored.end, |_, _| {});
        run.simulation.fleet().to_vec()
    }

    /// The multipliers of fresh data, by zone and half hour.
    fn half_hours(&self) -> HalfHours {
        let mut half_hours = HalfHours::default();
        let mut run = OfflineRun::of(self, Pricing::FRESH, HalfHours::default());
        run.run_until(self.plan.scored.end, |published, now| {
            half_hours.add(published, now);
        });
        half_hours
    }

    fn evening_before(&self) -> Self {
        self.plan.a_day_earlier().population(self.streams.seed())
    }
}

/// A city and its services in one.
struct OfflineRun {
    truth: Arc<GroundTruth>,
    simulation: Simulation,
    prices: OfflinePrices,
    scored: Range<MarketTime>,
    rides: u128,
    score: Score,
}

impl OfflineRun {
    fn of(population: &Population, pricing: Pricing, before: HalfHours) -> Self {
        let Population { plan, streams, .. } = population;
        let start = plan.starts_at();
        let truth = Arc::new(plan.empty_ground_truth().keeping_facts());
        // The population has all riders of the run, so the record has none to add.
        let replay = plan.replay_from(plan.scored.end);
        let fleet = population.fleet.clone();
        // Real speed: these services accept any number of calls.
        let clock = CityClock::new(start, 0, 1.0);
        let mut simulation =
            Simulation::new(*streams, Arc::clone(&truth), replay, fleet, &clock, start);
        simulation.record_fleet(start);
        simulation.expect(population.riders.iter().cloned());
        let past = plan.empty_ground_truth();
        Self {
            prices: OfflinePrices::new(pricing, Arc::clone(&truth), past, start, before),
            truth,
            simulation,
            scored: plan.scored.clone(),
            rides: 0,
            score: Score::default(),
        }
    }

    /// Handles all events before `end`; `look` sees the published multipliers once per minute.
    fn run_until(
        &mut self,
        end: MarketTime,
        mut look: impl FnMut(&HashMap<Zone, Multiplier>, MarketTime),
    ) {
        while let Some(now) = self.simulation.next_at().filter(|next_at| *next_at < end) {
            for command in self.simulation.advance(now) {
                if matches!(command, CityCommand::ReadSurge) {
                    let published = self.prices.published(now);
                    look(&published, now);
                    self.send(CommandOutcome::Surge(published), now);
                } else {
                    self.answer(command, now);
                }
            }
        }
    }

    fn answer(&mut self, command: CityCommand, now: MarketTime) {
        match command {
            CityCommand::SeekRide(rider) => self.seek_ride(&rider, now),
            CityCommand::Progress {
                driver,
                ride,
                status,
                ..
            } => self.send(
                CommandOutcome::Progressed {
                    driver,
                    ride,
                    status,
                },
                now,
            ),
            CityCommand::Report(positions) => self.send(CommandOutcome::Reported(positions), now),
            CityCommand::ReadSurge | CityCommand::Resync { .. } | CityCommand::Confirm { .. } => {
                unreachable!("read above, and nothing fails here")
            }
        }
    }

    fn seek_ride(&mut self, rider: &Rider, now: MarketTime) {
        let zone = Zone::at(rider.trip.pickup);
        // Every zone of the area has both, and no pickup is outside it.
        let quoted = self.prices.quoted(zone, now);
        let (Some(multiplier), Some(oracle)) = (quoted, self.prices.oracle(zone, now)) else {
            return self.send(CommandOutcome::RiderDone, now);
        };
        let mut score = self.score;
        score.quoted(multiplier, oracle);
        self.send(CommandOutcome::Quoted(multiplier), now);
        if multiplier.as_f64() > rider.willingness {
            score.priced_out += 1;
            self.send(CommandOutcome::PricedOut, now);
        } else {
            score.requests += 1;
            self.send(CommandOutcome::Requested { zone, at: now }, now);
            match self.dispatch(rider, now) {
                Some(wait) => score.driven(rider, multiplier, wait),
                None => score.unserved += 1,
            }
        }
        self.send(CommandOutcome::RiderDone, now);
        if self.scored.contains(&rider.appears_at) {
            self.score = score;
        }
    }

    /// Sends the nearest driver; returns the wait in minutes, or `None` if the rider does not
    /// accept it or no driver is idle.
    fn dispatch(&mut self, rider: &Rider, now: MarketTime) -> Option<f64> {
        let Some((driver, position)) = self.truth.nearest_idle(rider.trip.pickup, now) else {
            self.send(CommandOutcome::Unserved, now);
            return None;
        };
        self.rides += 1;
        let ride = SimulatedRide {
            id: Uuid::from_u128(self.rides),
            trip: rider.trip,
            traffic: rider.traffic,
        };
        self.send(CommandOutcome::Matched { driver, ride }, now);
        let wait = fare::pickup_minutes(position, rider.trip.pickup);
        if wait * 60.0 > rider.patience.as_secs_f64() {
            let ride = ride.id;
            self.send(CommandOutcome::Cancelled { driver, ride }, now);
            return None;
        }
        Some(wait)
    }

    fn send(&mut self, outcome: CommandOutcome, now: MarketTime) {
        let command = self.simulation.handle(outcome, now);
        debug_assert_eq!(
            command, None,
            "services that never fail leave nothing to do"
        );
        self.prices.note(now);
    }
}
