//! What drivers and riders do: the simulation only reacts, to events that are due and to outcomes
//! of commands, and returns new commands. It never waits and never calls a service. Its caller
//! decides how the commands are executed, so a test can play the services.
//!
//! This file has the riders, the reports and the clock of the city; [`rides`] has what drivers do
//! on a ride, [`relocation`] what idle drivers do, and [`desync`] how a lost answer is repaired.

mod desync;
mod relocation;
mod rides;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use marketplace::supply::SILENCE_LIMIT;
use marketplace::{
    DriverState, DriverStatus, Dropoff, MarketTime, Multiplier, Position, ServiceArea, Zone,
};
use uuid::Uuid;

use super::counters::Counters;
use super::crowd::Crowd;
use super::driver::{Activity, Leg, SimulatedDriver, SimulatedRide};
use super::event_queue::EventQueue;
use super::executor::{CityCommand, CommandOutcome};
use super::random::RandomStreams;
use super::replay::{MINUTE, Replay};
use super::rider::Rider;
use crate::clock::CityClock;
use crate::ground_truth::{FORECAST_WINDOW, GroundTruth};

/// The drivers and riders of a city.
#[derive(Debug)]
pub(crate) struct Simulation {
    streams: RandomStreams,
    area: Arc<ServiceArea>,
    truth: Arc<GroundTruth>,
    replay: Replay,
    places: Vec<Position>,
    pace: Pace,
    queue: EventQueue<Event>,
    fleet: Vec<SimulatedDriver>,
    /// Index into `fleet`.
    drivers: HashMap<Uuid, usize>,
    /// The last multipliers of `/v1/surge`.
    published: HashMap<Zone, Multiplier>,
    next_surge_read_at: MarketTime,
    crowds: u32,
    riders_seeking: usize,
    reports_in_flight: usize,
    confirms_in_flight: usize,
    is_reconcile_planned: bool,
    counters: Counters,
}

/// An event that is due at some market time.
#[derive(Debug)]
enum Event {
    /// A minute of the record begins.
    Minute(MarketTime),
    /// A rider looks for a ride.
    RiderAppears(Box<Rider>),
    /// Drivers report where they are.
    Report,
    /// The driver, by index in the fleet, reaches the rider.
    Pickup(usize, Uuid),
    /// The driver reaches the destination.
    Dropoff(usize, Uuid),
    /// Idle drivers check that the service sees them as idle.
    Reconcile,
    /// A driver becomes idle in the service too.
    Resync(usize),
}

impl Simulation {
    /// A city whose riders appear from the next minute on. Drivers on an earlier trip go online one
    /// forecast window before its end.
    pub(crate) fn new(
        streams: RandomStreams,
        truth: Arc<GroundTruth>,
        replay: Replay,
        fleet: Vec<SimulatedDriver>,
        clock: &CityClock,
        now: MarketTime,
    ) -> Self {
        let mut queue = EventQueue::new();
        queue.push(now, Event::Minute(minute_of(now)));
        queue.push(now, Event::Report);
        let numbered = fleet.iter().enumerate();
        for (place, driver) in numbered.clone() {
            if driver.activity == Activity::OnEarlierTrip {
                let online_at = driver.leg.arrives_at - FORECAST_WINDOW;
                queue.push(online_at, Event::Resync(place));
            }
        }
        Self {
            streams,
            area: Arc::clone(truth.area()),
            truth,
            places: replay.places(),
            replay,
            pace: Pace::of(clock, fleet.len()),
            queue,
            drivers: numbered.map(|(place, driver)| (driver.id, place)).collect(),
            fleet,
            published: HashMap::new(),
            next_surge_read_at: now,
            crowds: 0,
            riders_seeking: 0,
            reports_in_flight: 0,
            confirms_in_flight: 0,
            is_reconcile_planned: false,
            counters: Counters::default(),
        }
    }

    /// When the next event is due.
    pub(crate) fn next_at(&self) -> Option<MarketTime> {
        self.queue.next_at()
    }

    /// The counts so far.
    pub(crate) const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The drivers.
    pub(crate) fn fleet(&self) -> &[SimulatedDriver] {
        &self.fleet
    }

    /// Records the idle drivers in the ground truth, at their positions.
    pub(crate) fn record_fleet(&self, now: MarketTime) {
        let fleet = self.fleet.iter().enumerate();
        for (place, driver) in fleet.filter(|(_, driver)| driver.is_idle()) {
            let position = driver.leg.position(now);
            self.record(place, DriverStatus::Idle, position, None, now);
        }
    }

    /// Handles all events that are due, and returns the commands that follow.
    pub(crate) fn advance(&mut self, now: MarketTime) -> Vec<CityCommand> {
        let mut commands = Vec::new();
        while let Some(event) = self.queue.pop_due(now) {
            self.handle_event(event, now, &mut commands);
        }
        commands
    }

    /// Handles the outcome of a command, and returns the command that follows at once.
    pub(crate) fn handle(
        &mut self,
        outcome: CommandOutcome,
        now: MarketTime,
    ) -> Option<CityCommand> {
        match outcome {
            CommandOutcome::Quoted(multiplier) => self.counters.quoted(multiplier),
            CommandOutcome::PricedOut => self.counters.priced_out += 1,
            CommandOutcome::Requested { zone, at } => self.requested(zone, at),
            CommandOutcome::RequestLost => self.plan_reconcile(now),
            CommandOutcome::Matched { driver, ride } => self.matched(driver, ride, now),
            CommandOutcome::Cancelled { driver, ride } => self.cancelled(driver, ride, now),
            CommandOutcome::Unserved => self.counters.unserved += 1,
            CommandOutcome::RiderDone => self.riders_seeking -= 1,
            CommandOutcome::Progressed {
                driver,
                ride,
                status: DriverStatus::OnTrip,
            } => self.picked_up(driver, ride, now),
            CommandOutcome::Progressed { driver, ride, .. } => self.dropped_off(driver, ride, now),
            CommandOutcome::IsIdle { driver, position } => self.is_idle(driver, position, now),
            CommandOutcome::Disputed(driver) => return self.disputed(driver, now),
            CommandOutcome::ConfirmOver => self.confirms_in_flight -= 1,
            CommandOutcome::Desynced { driver, ride } => self.desynced(driver, ride, now),
            CommandOutcome::StillDesynced(driver) => self.still_desynced(driver, now),
            CommandOutcome::Reported(positions) => self.reported(&positions, now),
            CommandOutcome::Surge(multipliers) => self.published = multipliers,
            CommandOutcome::Failed(kind) => self.counters.failed(kind),
        }
        None
    }

    fn handle_event(&mut self, event: Event, now: MarketTime, commands: &mut Vec<CityCommand>) {
        match event {
            Event::Minute(minute) => {
                self.expect_riders(minute, now);
                self.relocate(now);
                commands.extend(self.read_surge(now));
            }
            Event::RiderAppears(rider) => commands.extend(self.seek_ride(*rider)),
            Event::Report => commands.extend(self.report(now)),
            Event::Pickup(place, ride) => commands.extend(self.pick_up(place, ride)),
            Event::Dropoff(place, ride) => commands.extend(self.drop_off(place, ride)),
            Event::Reconcile => commands.extend(self.reconcile(now)),
            Event::Resync(place) => commands.extend(self.resync(place, now)),
        }
    }

    /// Adds the riders of a minute, and the next minute. A city that fell behind, because the
    /// machine was suspended, continues with the present.
    fn expect_riders(&mut self, minute: MarketTime, now: MarketTime) {
        let minute = if minute + MINUTE * 2 < now {
            let present = minute_of(now);
            self.replay.skip_to(present);
            present
        } else {
            minute
        };
        let replayed = self.replay.play(minute + MINUTE);
        let rider = |replayed| Rider::of_pickup(&replayed, &self.places, self.streams);
        let riders: Vec<Rider> = replayed.into_iter().map(rider).collect();
        self.expect(riders);
        self.queue
            .push(minute + MINUTE, Event::Minute(minute + MINUTE));
    }

    /// Adds the riders of a crowd.
    pub(crate) fn expect_crowd(&mut self, crowd: &Crowd) {
        let rider = |replayed| Rider::of_pickup(&replayed, &self.places, self.streams);
        let riders: Vec<Rider> = crowd.pickups(self.crowds).map(rider).collect();
        self.crowds += 1;
        self.expect(riders);
    }

    /// Adds riders who have not appeared yet.
    pub(crate) fn expect(&mut self, riders: impl IntoIterator<Item = Rider>) {
        for rider in riders {
            self.queue
                .push(rider.appears_at, Event::RiderAppears(Box::new(rider)));
        }
    }

    fn read_surge(&mut self, now: MarketTime) -> Option<CityCommand> {
        if now < self.next_surge_read_at {
            return None;
        }
        self.next_surge_read_at = minute_of(now) + self.pace.between_surge_reads;
        Some(CityCommand::ReadSurge)
    }

    fn seek_ride(&mut self, rider: Rider) -> Option<CityCommand> {
        if self.riders_seeking >= MAX_RIDERS_SEEKING {
            self.counters.failed("rider rejected".to_owned());
            return None;
        }
        self.riders_seeking += 1;
        Some(CityCommand::SeekRide(rider))
    }

    /// The positions of all drivers who moved since their last report, and the places of those who
    /// stand, so that the services go on believing them. Skipped while a report is in
    /// flight: the next one contains everything.
    fn report(&mut self, now: MarketTime) -> Vec<CityCommand> {
        self.queue
            .push(now + self.pace.between_reports, Event::Report);
        if self.reports_in_flight > 0 {
            return Vec::new();
        }
        let moved: Vec<_> = self
            .fleet
            .iter()
            .filter(|driver| driver.activity != Activity::OnEarlierTrip)
            .map(|driver| (driver.id, driver.leg.position(now)))
            .filter(|(id, position)| {
                let reported = self.truth.driver(*id);
                let is_known = reported.is_some_and(|reported| {
                    reported.position == *position && now < reported.reported_at + REPORT_EVERY
                });
                !is_known
            })
            .collect();
        let batches = moved.chunks(MOST_POSITIONS_PER_REPORT);
        self.reports_in_flight = batches.len();
        batches
            .map(|batch| CityCommand::Report(batch.to_vec()))
            .collect()
    }

    fn reported(&mut self, positions: &[(Uuid, Position)], now: MarketTime) {
        self.reports_in_flight -= 1;
        self.truth.positions_reported(now, positions);
    }

    fn requested(&mut self, zone: Zone, at: MarketTime) {
        self.counters.requests += 1;
        self.truth.ride_requested(zone, at);
    }

    /// The driver stops here and is idle; the service sees the reported position.
    fn wait_at(&mut self, place: usize, here: Position, reported: Position, now: MarketTime) {
        let driver = &mut self.fleet[place];
        driver.activity = Activity::Idle;
        driver.leg = Leg::standing(here, now);
        driver.disputed = false;
        self.record(place, DriverStatus::Idle, reported, None, now);
    }

    fn record(
        &self,
        place: usize,
        status: DriverStatus,
        position: Position,
        ride: Option<(&SimulatedRide, MarketTime)>,
        now: MarketTime,
    ) {
        let dropoff = ride.map(|(ride, due_at)| Dropoff {
            zone: self.area.zone_of(ride.trip.dropoff).ok(),
            due_at,
        });
        let state = DriverState {
            status,
            position,
            dropoff,
            reported_at: now,
        };
        self.truth.driver_changed(self.fleet[place].id, state);
    }

    fn place_of(&self, driver: Uuid) -> Option<usize> {
        self.drivers.get(&driver).copied()
    }
}

/// Riders who may seek a ride at once. There are more only when the services do not answer.
const MAX_RIDERS_SEEKING: usize = 256;

/// A driver who stands reports this often: one lost report does not silence the car.
const REPORT_EVERY: Duration = Duration::from_secs(SILENCE_LIMIT.as_secs() / 3);

/// The API accepts no more positions in one call.
const MOST_POSITIONS_PER_REPORT: usize = 500;

/// The periods of the city, in market time. In a fast replay, real time sets the limit, so that the
/// city does not overload the services.
#[derive(Debug, Clone, Copy)]
struct Pace {
    between_reports: Duration,
    between_surge_reads: Duration,
    before_retry: Duration,
}

impl Pace {
    fn of(clock: &CityClock, fleet: usize) -> Self {
        let batches = fleet.div_ceil(MOST_POSITIONS_PER_REPORT).max(1) as u32;
        let five_batches_a_second = clock.market(Duration::from_millis(200)) * batches;
        Self {
            between_reports: Duration::from_secs(15)
                .max(five_batches_a_second)
                .min(REPORT_EVERY),
            between_surge_reads: MINUTE.max(clock.market(Duration::from_secs(1))),
            before_retry: MINUTE.max(clock.market(Duration::from_secs(3))),
        }
    }
}

fn minute_of(now: MarketTime) -> MarketTime {
    MarketTime::of_window(now.window_index(MINUTE), MINUTE)
}

#[cfg(test)]
mod tests;
