//! The city itself: what happens at which market time, and what follows from the news of its errands.
//!
//! Nothing here waits or calls. Events fall due, news come in, errands go out; whoever runs the simulation decides how.
//! So a test can be the services, and tell it anything. Here is what comes up and who is asked; `rides`, `wandering` and
//! `astray` say what drivers make of it.

mod astray;
mod rides;
mod wandering;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use marketplace::{
    DriverState, DriverStatus, Dropoff, MarketTime, Multiplier, Position, ServiceArea, Zone,
};
use uuid::Uuid;

use super::agenda::Agenda;
use super::crowd::Crowd;
use super::draws::Draws;
use super::driver::{Doing, Driver, Leg, Ride};
use super::errands::{Errand, News};
use super::replay::{MINUTE, Replay};
use super::rider::Rider;
use super::tally::Tally;
use crate::books::Books;
use crate::clock::MarketClock;

/// A running city.
#[derive(Debug)]
pub(crate) struct Simulation {
    draws: Draws,
    area: Arc<ServiceArea>,
    books: Arc<Books>,
    replay: Replay,
    places: Vec<Position>,
    pace: Pace,
    agenda: Agenda<Event>,
    fleet: Vec<Driver>,
    /// Places in `fleet`.
    drivers: HashMap<Uuid, usize>,
    /// The multipliers as last seen on `/v1/surge`.
    published: HashMap<Zone, Multiplier>,
    next_look_at: MarketTime,
    hails_under_way: usize,
    reports_under_way: usize,
    confirms_under_way: usize,
    is_roll_call_planned: bool,
    tally: Tally,
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
    RollCall,
    /// A driver who was not understood tries again.
    BringBack(usize),
}

impl Simulation {
    /// A city about to live: its fleet is idle, its riders come from the next minute on.
    pub(crate) fn new(
        draws: Draws,
        books: Arc<Books>,
        replay: Replay,
        fleet: Vec<Driver>,
        clock: &MarketClock,
        now: MarketTime,
    ) -> Self {
        let mut agenda = Agenda::new();
        agenda.enter(now, Event::Minute(minute_of(now)));
        agenda.enter(now, Event::Report);
        let numbered = fleet.iter().enumerate();
        Self {
            draws,
            area: Arc::clone(books.area()),
            books,
            places: replay.places(),
            replay,
            pace: Pace::of(clock, fleet.len()),
            agenda,
            drivers: numbered.map(|(place, driver)| (driver.id, place)).collect(),
            fleet,
            published: HashMap::new(),
            next_look_at: now,
            hails_under_way: 0,
            reports_under_way: 0,
            confirms_under_way: 0,
            is_roll_call_planned: false,
            tally: Tally::default(),
        }
    }

    /// When something next falls due.
    pub(crate) fn next_at(&self) -> Option<MarketTime> {
        self.agenda.next_at()
    }

    /// What happened so far.
    pub(crate) const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The drivers.
    pub(crate) fn fleet(&self) -> &[Driver] {
        &self.fleet
    }

    /// Writes the fleet into the books: all idle, where they are.
    pub(crate) fn book_fleet(&self) {
        for (place, driver) in self.fleet.iter().enumerate() {
            let position = driver.leg.position(driver.leg.arrives_at);
            self.book(place, DriverStatus::Idle, position, None);
        }
    }

    /// Lets everything happen that is due, and returns the errands that it takes.
    pub(crate) fn advance(&mut self, now: MarketTime) -> Vec<Errand> {
        let mut errands = Vec::new();
        while let Some(event) = self.agenda.take_due(now) {
            self.happen(event, now, &mut errands);
        }
        errands
    }

    /// Takes in what became of an errand, and returns the errands that follow at once.
    pub(crate) fn hear(&mut self, news: News, now: MarketTime) -> Option<Errand> {
        match news {
            News::Quoted(multiplier) => self.tally.quoted(multiplier),
            News::PricedOut => self.tally.priced_out += 1,
            News::Requested { zone, at } => self.requested(zone, at),
            News::RequestLost => self.plan_roll_call(now),
            News::Matched { driver, ride } => self.matched(driver, ride, now),
            News::Cancelled { driver, ride } => self.cancelled(driver, ride, now),
            News::Unserved => self.tally.unserved += 1,
            News::HailOver => self.hails_under_way -= 1,
            News::Progressed {
                driver,
                ride,
                status: DriverStatus::OnTrip,
            } => self.picked_up(driver, ride, now),
            News::Progressed { driver, ride, .. } => self.dropped_off(driver, ride, now),
            News::IsIdle { driver, position } => self.is_idle(driver, position, now),
            News::Disputed(driver) => return self.disputed(driver, now),
            News::ConfirmOver => self.confirms_under_way -= 1,
            News::Astray { driver, ride } => self.astray(driver, ride, now),
            News::StillAstray(driver) => self.still_astray(driver, now),
            News::Reported(positions) => self.reported(&positions),
            News::Surge(multipliers) => self.published = multipliers,
            News::Failed(kind) => self.tally.failed(kind),
        }
        None
    }

    fn happen(&mut self, event: Event, now: MarketTime, errands: &mut Vec<Errand>) {
        match event {
            Event::Minute(minute) => {
                self.expect_riders(minute, now);
                self.wander(now);
                errands.extend(self.look_at_surge(now));
            }
            Event::RiderAppears(rider) => errands.extend(self.hail(*rider)),
            Event::Report => errands.extend(self.report(now)),
            Event::Pickup(place, ride) => errands.extend(self.pick_up(place, ride)),
            Event::Dropoff(place, ride) => errands.extend(self.drop_off(place, ride)),
            Event::RollCall => errands.extend(self.call_the_roll(now)),
            Event::BringBack(place) => errands.extend(self.bring_back(place, now)),
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
        let played = self.replay.play(minute + MINUTE);
        let rider = |played| Rider::behind(&played, &self.places, self.draws);
        let riders: Vec<Rider> = played.into_iter().map(rider).collect();
        self.expect(riders);
        self.agenda
            .enter(minute + MINUTE, Event::Minute(minute + MINUTE));
    }

    /// Enters the riders of a crowd that is still to come.
    pub(crate) fn expect_crowd(&mut self, crowd: &Crowd) {
        let rider = |played| Rider::behind(&played, &self.places, self.draws);
        let riders: Vec<Rider> = crowd.played().map(rider).collect();
        self.expect(riders);
    }

    /// Enters riders who are still to come.
    pub(crate) fn expect(&mut self, riders: impl IntoIterator<Item = Rider>) {
        for rider in riders {
            self.agenda
                .enter(rider.appears_at, Event::RiderAppears(Box::new(rider)));
        }
    }

    fn look_at_surge(&mut self, now: MarketTime) -> Option<Errand> {
        if now < self.next_look_at {
            return None;
        }
        self.next_look_at = minute_of(now) + self.pace.between_looks;
        Some(Errand::LookAtSurge)
    }

    fn hail(&mut self, rider: Rider) -> Option<Errand> {
        if self.hails_under_way >= MOST_HAILS_AT_ONCE {
            self.tally.failed("rider turned away".to_owned());
            return None;
        }
        self.hails_under_way += 1;
        Some(Errand::Hail(rider))
    }

    /// The positions of all drivers who are not where they last reported to be. Skipped while the last report is still
    /// on its way: the next one says everything.
    fn report(&mut self, now: MarketTime) -> Vec<Errand> {
        self.agenda
            .enter(now + self.pace.between_reports, Event::Report);
        if self.reports_under_way > 0 {
            return Vec::new();
        }
        let moved: Vec<_> = self
            .fleet
            .iter()
            .map(|driver| (driver.id, driver.leg.position(now)))
            .filter(|(id, position)| self.books.reported_position(*id) != Some(*position))
            .collect();
        let batches = moved.chunks(MOST_POSITIONS_PER_REPORT);
        self.reports_under_way = batches.len();
        batches
            .map(|batch| Errand::Report(batch.to_vec()))
            .collect()
    }

    fn reported(&mut self, positions: &[(Uuid, Position)]) {
        self.reports_under_way -= 1;
        self.books.positions_reported(positions);
    }

    fn requested(&mut self, zone: Zone, at: MarketTime) {
        self.tally.requests += 1;
        self.books.ride_requested(zone, at);
    }

    /// The driver stops here and is idle; the service knows it at the reported position.
    fn wait_at(&mut self, place: usize, here: Position, reported: Position, now: MarketTime) {
        let driver = &mut self.fleet[place];
        driver.doing = Doing::Idle;
        driver.leg = Leg::standing(here, now);
        driver.disputed = false;
        self.book(place, DriverStatus::Idle, reported, None);
    }

    fn book(
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
        self.books.driver_changed(self.fleet[place].id, state);
    }

    fn place_of(&self, driver: Uuid) -> Option<usize> {
        self.drivers.get(&driver).copied()
    }
}

/// Riders who may be looking for a ride at once; more only come when the services do not answer any more.
const MOST_HAILS_AT_ONCE: usize = 256;

/// The API takes no more positions in one call.
const MOST_POSITIONS_PER_REPORT: usize = 500;

/// How often things are done, in market time. In a fast replay real time sets the limit: no more calls a second than a
/// city of this size would be forgiven for.
#[derive(Debug, Clone, Copy)]
struct Pace {
    between_reports: Duration,
    between_looks: Duration,
    before_retry: Duration,
}

impl Pace {
    fn of(clock: &MarketClock, fleet: usize) -> Self {
        let batches = fleet.div_ceil(MOST_POSITIONS_PER_REPORT).max(1) as u32;
        let five_batches_a_second = clock.market(Duration::from_millis(200)) * batches;
        Self {
            between_reports: Duration::from_secs(15).max(five_batches_a_second),
            between_looks: MINUTE.max(clock.market(Duration::from_secs(1))),
            before_retry: MINUTE.max(clock.market(Duration::from_secs(3))),
        }
    }
}

fn minute_of(now: MarketTime) -> MarketTime {
    MarketTime::of_window(now.window_index(MINUTE), MINUTE)
}

#[cfg(test)]
mod tests;
