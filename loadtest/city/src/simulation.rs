//! The city itself: what happens at which market time, and what follows from the outcome of its commands.
//!
//! Nothing here waits or calls. Events fall due, outcome come in, commands go out; whoever runs the simulation decides how.
//! So a test can be the services, and sender it anything. Here is what comes up and who is asked; `rides`, `relocation` and
//! `desynced` say what drivers make of it.

mod desync;
mod relocation;
mod rides;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use marketplace::{
    DriverState, DriverStatus, Dropoff, MarketTime, Multiplier, Position, ServiceArea, Zone,
};
use uuid::Uuid;

use super::counters::Counters;
use super::crowd::Crowd;
use super::driver::{Activity, Driver, Leg, Ride};
use super::event_queue::EventQueue;
use super::executor::{CityCommand, CommandOutcome};
use super::random::RandomStreams;
use super::replay::{MINUTE, Replay};
use super::rider::Rider;
use crate::clock::MarketClock;
use crate::ground_truth::GroundTruth;

/// A running city.
#[derive(Debug)]
pub(crate) struct Simulation {
    streams: RandomStreams,
    area: Arc<ServiceArea>,
    truth: Arc<GroundTruth>,
    replay: Replay,
    places: Vec<Position>,
    pace: Pace,
    queue: EventQueue<Event>,
    fleet: Vec<Driver>,
    /// Places in `fleet`.
    drivers: HashMap<Uuid, usize>,
    /// The multipliers as last seen on `/v1/surge`.
    published: HashMap<Zone, Multiplier>,
    next_surge_read_at: MarketTime,
    riders_seeking: usize,
    reports_in_flight: usize,
    confirms_in_flight: usize,
    is_reconcile_planned: bool,
    counters: Counters,
}

/// Something that falls due.
#[derive(Debug)]
enum Event {
    /// A minute of the record begins.
    Minute(MarketTime),
    /// A rider looks for a ride.
    RiderAppears(Box<Rider>),
    /// Drivers report where they are.
    Report,
    /// The driver (by place in the fleet) reaches the rider.
    Pickup(usize, Uuid),
    /// The driver reaches the destination.
    Dropoff(usize, Uuid),
    /// Idle drivers make sure that the service knows them to be.
    Reconcile,
    /// A driver who was not understood tries again.
    Resync(usize),
}

impl Simulation {
    /// A city about to live: its fleet is idle, its riders come from the next minute on.
    pub(crate) fn new(
        streams: RandomStreams,
        truth: Arc<GroundTruth>,
        replay: Replay,
        fleet: Vec<Driver>,
        clock: &MarketClock,
        now: MarketTime,
    ) -> Self {
        let mut queue = EventQueue::new();
        queue.push(now, Event::Minute(minute_of(now)));
        queue.push(now, Event::Report);
        let numbered = fleet.iter().enumerate();
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
            riders_seeking: 0,
            reports_in_flight: 0,
            confirms_in_flight: 0,
            is_reconcile_planned: false,
            counters: Counters::default(),
        }
    }

    /// When something next falls due.
    pub(crate) fn next_at(&self) -> Option<MarketTime> {
        self.queue.next_at()
    }

    /// What happened so far.
    pub(crate) const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The drivers.
    pub(crate) fn fleet(&self) -> &[Driver] {
        &self.fleet
    }

    /// Writes the fleet into the truth: all idle, where they are.
    pub(crate) fn record_fleet(&self) {
        for (place, driver) in self.fleet.iter().enumerate() {
            let position = driver.leg.position(driver.leg.arrives_at);
            self.record(place, DriverStatus::Idle, position, None);
        }
    }

    /// Lets everything happen that is due, and returns the commands that it takes.
    pub(crate) fn advance(&mut self, now: MarketTime) -> Vec<CityCommand> {
        let mut commands = Vec::new();
        while let Some(event) = self.queue.pop_due(now) {
            self.happen(event, now, &mut commands);
        }
        commands
    }

    /// Takes in what became of an command, and returns the commands that follow at once.
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
            CommandOutcome::Reported(positions) => self.reported(&positions),
            CommandOutcome::Surge(multipliers) => self.published = multipliers,
            CommandOutcome::Failed(kind) => self.counters.failed(kind),
        }
        None
    }

    fn happen(&mut self, event: Event, now: MarketTime, commands: &mut Vec<CityCommand>) {
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

    /// Enters the riders of a minute, and the minute after it. A city that could not keep up, having been suspended for
    /// one, goes on with the present.
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

    /// Enters the riders of a crowd that is still to come.
    pub(crate) fn expect_crowd(&mut self, crowd: &Crowd) {
        let rider = |replayed| Rider::of_pickup(&replayed, &self.places, self.streams);
        let riders: Vec<Rider> = crowd.replayed().map(rider).collect();
        self.expect(riders);
    }

    /// Enters riders who are still to come.
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
            self.counters.failed("rider turned away".to_owned());
            return None;
        }
        self.riders_seeking += 1;
        Some(CityCommand::SeekRide(rider))
    }

    /// The positions of all drivers who are not where they last reported to be. Skipped while the last report is still
    /// on its way: the next one says everything.
    fn report(&mut self, now: MarketTime) -> Vec<CityCommand> {
        self.queue
            .push(now + self.pace.between_reports, Event::Report);
        if self.reports_in_flight > 0 {
            return Vec::new();
        }
        let moved: Vec<_> = self
            .fleet
            .iter()
            .map(|driver| (driver.id, driver.leg.position(now)))
            .filter(|(id, position)| self.truth.reported_position(*id) != Some(*position))
            .collect();
        let batches = moved.chunks(MOST_POSITIONS_PER_REPORT);
        self.reports_in_flight = batches.len();
        batches
            .map(|batch| CityCommand::Report(batch.to_vec()))
            .collect()
    }

    fn reported(&mut self, positions: &[(Uuid, Position)]) {
        self.reports_in_flight -= 1;
        self.truth.positions_reported(positions);
    }

    fn requested(&mut self, zone: Zone, at: MarketTime) {
        self.counters.requests += 1;
        self.truth.ride_requested(zone, at);
    }

    /// The driver stops here and is idle; the service knows it at the reported position.
    fn wait_at(&mut self, place: usize, here: Position, reported: Position, now: MarketTime) {
        let driver = &mut self.fleet[place];
        driver.activity = Activity::Idle;
        driver.leg = Leg::standing(here, now);
        driver.disputed = false;
        self.record(place, DriverStatus::Idle, reported, None);
    }

    fn record(
        &self,
        place: usize,
        status: DriverStatus,
        position: Position,
        ride: Option<(&Ride, MarketTime)>,
    ) {
        let dropoff = ride.map(|(ride, due_at)| Dropoff {
            zone: self.area.zone_of(ride.trip.dropoff).ok(),
            due_at,
        });
        let state = DriverState {
            status,
            position,
            dropoff,
        };
        self.truth.driver_changed(self.fleet[place].id, state);
    }

    fn place_of(&self, driver: Uuid) -> Option<usize> {
        self.drivers.get(&driver).copied()
    }
}

/// Riders who may be looking for a ride at once; more only come when the services do not answer any more.
const MAX_RIDERS_SEEKING: usize = 256;

/// The API takes no more positions in one call.
const MOST_POSITIONS_PER_REPORT: usize = 500;

/// How often things are done, in market time. In a fast replay real time sets the limit: no more calls a second than a
/// city of this size would be forgiven for.
#[derive(Debug, Clone, Copy)]
struct Pace {
    between_reports: Duration,
    between_surge_reads: Duration,
    before_retry: Duration,
}

impl Pace {
    fn of(clock: &MarketClock, fleet: usize) -> Self {
        let batches = fleet.div_ceil(MOST_POSITIONS_PER_REPORT).max(1) as u32;
        let five_batches_a_second = clock.market(Duration::from_millis(200)) * batches;
        Self {
            between_reports: Duration::from_secs(15).max(five_batches_a_second),
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
