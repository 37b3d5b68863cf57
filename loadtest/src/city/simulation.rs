//! The city itself: what happens at which market time, and what follows from the news of its errands.
//!
//! Nothing here waits or calls. Events fall due, news come in, errands go out; whoever runs the simulation decides how.
//! So a test can be the services, and tell it anything.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use marketplace::{
    DriverState, DriverStatus, Dropoff, MarketTime, Multiplier, Position, ServiceArea, Trip, Zone,
};
use rand::Rng;
use uuid::Uuid;

use super::agenda::Agenda;
use super::draws::{Draws, Subject};
use super::driver::{self, Doing, Driver, Leg, Ride};
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
        for played in self.replay.play(minute + MINUTE) {
            let rider = Rider::behind(&played, &self.places, self.draws);
            self.agenda
                .enter(rider.appears_at, Event::RiderAppears(Box::new(rider)));
        }
        self.agenda
            .enter(minute + MINUTE, Event::Minute(minute + MINUTE));
    }

    /// Once a minute some idle drivers follow a dearer neighbour zone, and those who waited long drift to demand.
    fn wander(&mut self, now: MarketTime) {
        const RESTLESS_AFTER: Duration = Duration::from_secs(5 * 60);
        const SHARE_WHO_FOLLOW_SURGE: f64 = 0.15;
        let minute = now.window_index(MINUTE).unsigned_abs();
        for place in 0..self.fleet.len() {
            let driver = &self.fleet[place];
            if !driver.has_waited(Duration::ZERO, now) {
                continue;
            }
            let chance = &mut self.draws.of(Subject::Driver, driver.number, minute);
            let here = driver.leg.position(now);
            let follows = chance.random_bool(SHARE_WHO_FOLLOW_SURGE);
            if let Some(zone) = self.dearer_neighbour(here).filter(|_| follows) {
                self.fleet[place].head_for(zone.centre(), now);
            } else if driver.has_waited(RESTLESS_AFTER, now) {
                let target = driver::drift_target(here, &self.places, chance);
                self.fleet[place].head_for(target, now);
            }
        }
    }

    /// The dearest neighbour zone, if it is published at least 0.2 above the zone here.
    fn dearer_neighbour(&self, here: Position) -> Option<Zone> {
        const WORTH_THE_WAY_TENTHS: u16 = 2;
        let ring = self.area.k_ring(Zone::at(here))?;
        let tenths = |zone: &Zone| self.published.get(zone).map(|published| published.tenths());
        let own = tenths(&ring.centre())?;
        let dearest = ring.neighbours().iter().max_by_key(|zone| tenths(zone))?;
        (tenths(dearest)? >= own + WORTH_THE_WAY_TENTHS).then_some(*dearest)
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

    /// A driver of ours was sent to a rider.
    fn matched(&mut self, driver: Uuid, ride: Ride, now: MarketTime) {
        self.tally.matched += 1;
        let Some(place) = self.place_of(driver) else {
            self.tally.lost += 1;
            return;
        };
        let driver = &mut self.fleet[place];
        driver.leg = Leg::unladen(driver.leg.position(now), ride.trip.pickup, now);
        driver.doing = Doing::EnRoute(ride);
        driver.disputed = false;
        self.agenda
            .enter(driver.leg.arrives_at, Event::Pickup(place, ride.id));
        self.book_en_route(place, &ride, now);
    }

    /// The service knows the driver where it last reported to be, and promises the rider a car from there.
    fn book_en_route(&self, place: usize, ride: &Ride, now: MarketTime) {
        let driver = &self.fleet[place];
        let reported = self.books.reported_position(driver.id);
        let position = reported.unwrap_or_else(|| driver.leg.position(now));
        let approach = marketplace::fare::pickup_minutes(position, ride.trip.pickup);
        let due_at = now + minutes(approach) + minutes(expected_minutes(ride));
        self.book(place, DriverStatus::EnRoute, position, Some((ride, due_at)));
    }

    fn pick_up(&self, place: usize, ride: Uuid) -> Option<Errand> {
        match &self.fleet[place].doing {
            Doing::EnRoute(current) if current.id == ride => Some(Errand::Progress {
                driver: self.fleet[place].id,
                ride,
                status: DriverStatus::OnTrip,
                position: current.trip.pickup,
            }),
            _ => None,
        }
    }

    fn picked_up(&mut self, driver: Uuid, ride: Uuid, now: MarketTime) {
        let Some((place, ride)) = self.on_ride(driver, ride) else {
            return;
        };
        let (pickup, dropoff) = (ride.trip.pickup, ride.trip.dropoff);
        let expected = expected_minutes(&ride);
        let driver = &mut self.fleet[place];
        driver.doing = Doing::OnTrip(ride);
        driver.leg = Leg::lasting(pickup, dropoff, now, expected * ride.traffic);
        self.agenda
            .enter(driver.leg.arrives_at, Event::Dropoff(place, ride.id));
        let due_at = now + minutes(expected);
        self.book(place, DriverStatus::OnTrip, pickup, Some((&ride, due_at)));
    }

    fn drop_off(&self, place: usize, ride: Uuid) -> Option<Errand> {
        match &self.fleet[place].doing {
            Doing::OnTrip(current) if current.id == ride => Some(Errand::Progress {
                driver: self.fleet[place].id,
                ride,
                status: DriverStatus::Idle,
                position: current.trip.dropoff,
            }),
            _ => None,
        }
    }

    /// The rider has arrived. If the driver was sent on before this news came, only the rider's part is left of it.
    fn dropped_off(&mut self, driver: Uuid, ride: Uuid, now: MarketTime) {
        self.tally.completed += 1;
        if let Some((place, ride)) = self.on_ride(driver, ride) {
            self.wait_at(place, ride.trip.dropoff, ride.trip.dropoff, now);
        }
    }

    fn cancelled(&mut self, driver: Uuid, ride: Uuid, now: MarketTime) {
        self.tally.unserved += 1;
        if let Some((place, _)) = self.on_ride(driver, ride) {
            let here = self.fleet[place].leg.position(now);
            let reported = self.books.reported_position(driver).unwrap_or(here);
            self.wait_at(place, here, reported, now);
        }
    }

    fn is_idle(&mut self, driver: Uuid, position: Position, now: MarketTime) {
        let Some(place) = self.place_of(driver) else {
            return;
        };
        match self.fleet[place].doing {
            Doing::Astray => self.wait_at(place, position, position, now),
            Doing::Idle => {
                self.fleet[place].disputed = false;
                self.book(place, DriverStatus::Idle, position, None);
            }
            // Sent on a ride since it was asked.
            Doing::EnRoute(_) | Doing::OnTrip(_) => {}
        }
    }

    /// The service has sent a driver somewhere who knows nothing of it. The news may still be on its way; if they have not
    /// come by the next roll call, their answer was lost.
    fn disputed(&mut self, driver: Uuid, now: MarketTime) -> Option<Errand> {
        let place = self.place_of(driver)?;
        let driver = &mut self.fleet[place];
        if driver.doing != Doing::Idle {
            return None;
        }
        if driver.disputed {
            driver.doing = Doing::Astray;
            return self.bring_back(place, now);
        }
        driver.disputed = true;
        self.plan_roll_call(now);
        None
    }

    /// The service would not take what the driver of a ride said, so the ride is lost. A driver who has been sent on another
    /// one since then is where it should be.
    fn astray(&mut self, driver: Uuid, ride: Uuid, now: MarketTime) {
        self.tally.lost += 1;
        if let Some((place, _)) = self.on_ride(driver, ride) {
            self.fleet[place].doing = Doing::Astray;
            self.still_astray(driver, now);
        }
    }

    /// After a while the driver is brought back, or that is tried again.
    fn still_astray(&mut self, driver: Uuid, now: MarketTime) {
        if let Some(place) = self.place_of(driver) {
            let retry_at = now + self.pace.before_retry;
            self.agenda.enter(retry_at, Event::BringBack(place));
        }
    }

    fn bring_back(&self, place: usize, now: MarketTime) -> Option<Errand> {
        let driver = &self.fleet[place];
        (driver.doing == Doing::Astray).then(|| Errand::BringBack {
            driver: driver.id,
            position: driver.leg.position(now),
        })
    }

    fn plan_roll_call(&mut self, now: MarketTime) {
        if !self.is_roll_call_planned {
            self.is_roll_call_planned = true;
            self.agenda
                .enter(now + self.pace.before_retry, Event::RollCall);
        }
    }

    /// All idle drivers say so. Put off while some have not been answered since the last time.
    fn call_the_roll(&mut self, now: MarketTime) -> Vec<Errand> {
        self.is_roll_call_planned = false;
        if self.confirms_under_way > 0 {
            self.plan_roll_call(now);
            return Vec::new();
        }
        let idle = self
            .fleet
            .iter()
            .filter(|driver| driver.doing == Doing::Idle);
        let confirms = idle.map(|driver| Errand::Confirm {
            driver: driver.id,
            position: driver.leg.position(now),
        });
        let confirms: Vec<_> = confirms.collect();
        self.confirms_under_way = confirms.len();
        confirms
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

    /// The driver's place in the fleet and its ride, if it is still on that one.
    fn on_ride(&self, driver: Uuid, ride: Uuid) -> Option<(usize, Ride)> {
        let place = self.place_of(driver)?;
        let driver = &self.fleet[place];
        let current = driver.ride().filter(|_| driver.is_on(ride));
        current.map(|current| (place, *current))
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

fn expected_minutes(ride: &Ride) -> f64 {
    Trip::estimate(ride.trip.pickup, ride.trip.dropoff).minutes
}

fn minutes(minutes: f64) -> Duration {
    Duration::from_secs_f64(minutes * 60.0)
}

#[cfg(test)]
mod tests {
    use marketplace::backtest::Pickup;
    use marketplace::{Bounds, DemandProfile};

    use super::super::rider::TripAsk;
    use super::*;

    const RIDE: Uuid = Uuid::from_u128(1);

    fn start() -> MarketTime {
        "2014-04-04T17:00:00-04:00".parse().unwrap()
    }

    fn grand_central() -> Position {
        Position::new(40.7527, -73.9772).unwrap()
    }

    fn union_square() -> Position {
        Position::new(40.7359, -73.9911).unwrap()
    }

    /// A city of two drivers who wait at Grand Central, and of two pickups there in the first minute.
    fn city(seed: u64) -> Simulation {
        let midtown = Bounds::new(40.72, -74.0, 40.77, -73.96).unwrap();
        let area = Arc::new(ServiceArea::new(midtown));
        let profile = DemandProfile::flat(area.zones());
        let books = Arc::new(Books::new(area, Arc::new(profile), start()));
        let pickup = |position| Pickup {
            at: start(),
            position,
            base: String::new(),
        };
        let record = [pickup(grand_central()), pickup(union_square())];
        let replay = Replay::starting(&record, start()).unwrap();
        let draws = Draws::new(seed);
        let fleet: Vec<Driver> = (0..2)
            .map(|number| Driver::starting(number, draws, &[grand_central()], start()))
            .collect();
        let clock = MarketClock::new(start(), 0, 60.0);
        let city = Simulation::new(draws, books, replay, fleet, &clock, start());
        city.book_fleet();
        city
    }

    fn ride() -> Ride {
        Ride {
            id: RIDE,
            trip: TripAsk {
                pickup: union_square(),
                dropoff: grand_central(),
            },
            traffic: 1.0,
        }
    }

    /// Lets time pass until an errand comes up that concerns a ride, and returns it and when that was.
    fn next_progress(city: &mut Simulation) -> (Errand, MarketTime) {
        for _ in 0..10_000 {
            let now = city.next_at().unwrap();
            let errands = city.advance(now);
            let progress = errands
                .into_iter()
                .find(|errand| matches!(errand, Errand::Progress { .. }));
            if let Some(progress) = progress {
                return (progress, now);
            }
        }
        panic!("nobody was picked up or dropped off");
    }

    fn supply_at(city: &Simulation, place: Position, now: MarketTime) -> f64 {
        city.books.supply(Zone::at(place), now)
    }

    #[test]
    fn the_riders_of_a_minute_are_the_same_in_every_replay() {
        let hails = |seed| {
            let errands = city(seed).advance(start() + MINUTE);
            let riders = errands.into_iter().filter_map(|errand| match errand {
                Errand::Hail(rider) => Some(rider),
                _ => None,
            });
            riders.collect::<Vec<_>>()
        };
        assert_eq!(hails(7).len(), 2);
        assert_eq!(hails(7), hails(7));
        assert_ne!(hails(7), hails(8));
    }

    #[test]
    fn a_ride_is_driven_from_the_dispatch_to_the_dropoff() {
        let mut city = city(1);
        let driver = city.fleet()[0].id;
        city.hear(
            News::Matched {
                driver,
                ride: ride(),
            },
            start(),
        );
        assert_eq!(supply_at(&city, grand_central(), start()), 1.0);

        let (pickup, at_pickup) = next_progress(&mut city);
        let approach = marketplace::fare::pickup_minutes(grand_central(), union_square());
        assert_eq!(at_pickup, start() + minutes(approach));
        let on_trip = DriverStatus::OnTrip;
        assert_eq!(
            pickup,
            Errand::Progress {
                driver,
                ride: RIDE,
                status: on_trip,
                position: union_square()
            }
        );
        let progressed = |status| News::Progressed {
            driver,
            ride: RIDE,
            status,
        };
        city.hear(progressed(on_trip), at_pickup);

        let (_, at_dropoff) = next_progress(&mut city);
        assert_eq!(at_dropoff, at_pickup + minutes(expected_minutes(&ride())));
        // Due this very instant, so it counts as supply before the driver says so, and after.
        assert_eq!(supply_at(&city, grand_central(), at_dropoff), 2.0);
        city.hear(progressed(DriverStatus::Idle), at_dropoff);
        assert_eq!(supply_at(&city, grand_central(), at_dropoff), 2.0);
        assert_eq!(city.tally().completed, 1);
    }

    #[test]
    fn a_cancelled_ride_frees_its_driver_and_nobody_is_picked_up() {
        let mut city = city(1);
        let driver = city.fleet()[0].id;
        city.hear(
            News::Matched {
                driver,
                ride: ride(),
            },
            start(),
        );
        city.hear(News::Cancelled { driver, ride: RIDE }, start());
        assert_eq!(supply_at(&city, grand_central(), start()), 2.0);
        assert_eq!(city.tally().unserved, 1);
        let later = start() + MINUTE * 60;
        let errands = city.advance(later);
        assert!(
            !errands
                .iter()
                .any(|errand| matches!(errand, Errand::Progress { .. }))
        );
    }

    #[test]
    fn news_of_a_cancellation_that_were_overtaken_by_the_next_ride_change_nothing() {
        let mut city = city(1);
        let driver = city.fleet()[0].id;
        let next = Ride {
            id: Uuid::from_u128(2),
            ..ride()
        };
        city.hear(
            News::Matched {
                driver,
                ride: ride(),
            },
            start(),
        );
        city.hear(News::Matched { driver, ride: next }, start());
        city.hear(News::Cancelled { driver, ride: RIDE }, start());
        assert!(city.fleet()[0].is_on(next.id));
    }

    #[test]
    fn a_driver_who_was_sent_on_a_ride_unheard_of_is_found_out_and_brought_back() {
        let mut city = city(1);
        let driver = city.fleet()[0].id;
        city.hear(News::RequestLost, start());
        let roll_call = city.advance(start() + MINUTE * 4);
        assert!(roll_call.contains(&Errand::Confirm {
            driver,
            position: grand_central()
        }));
        // The first dispute may be news that are late; the second is not.
        assert_eq!(city.hear(News::Disputed(driver), start()), None);
        let brought_back = Errand::BringBack {
            driver,
            position: grand_central(),
        };
        let again = city.hear(News::Disputed(driver), start());
        assert_eq!(again, Some(brought_back));
    }

    #[test]
    fn a_driver_whose_status_was_refused_is_brought_back_after_a_while() {
        let mut city = city(1);
        let driver = city.fleet()[0].id;
        city.hear(
            News::Matched {
                driver,
                ride: ride(),
            },
            start(),
        );
        city.hear(News::Astray { driver, ride: RIDE }, start());
        let errands = city.advance(start() + MINUTE * 4);
        let brought_back = |errand: &Errand| matches!(errand, Errand::BringBack { .. });
        assert!(errands.iter().any(brought_back));
        assert_eq!(city.tally().lost, 1);

        let position = union_square();
        city.hear(News::IsIdle { driver, position }, start() + MINUTE * 4);
        assert_eq!(city.fleet()[0].doing, Doing::Idle);
    }

    #[test]
    fn only_drivers_who_moved_report_and_only_until_they_were_heard() {
        let mut city = city(1);
        let report_in = |errands: Vec<Errand>| {
            errands.into_iter().find_map(|errand| match errand {
                Errand::Report(positions) => Some(positions),
                _ => None,
            })
        };
        let quarter = Duration::from_secs(15);
        assert_eq!(report_in(city.advance(start())), None);
        city.fleet[0].head_for(union_square(), start());
        let report = report_in(city.advance(start() + quarter)).unwrap();
        assert_eq!(report.len(), 1);
        assert_eq!(report[0].0, city.fleet()[0].id);
        // While the answer is out nothing is sent; afterwards the driver has moved on.
        assert_eq!(report_in(city.advance(start() + quarter * 2)), None);
        city.hear(News::Reported(report), start() + quarter * 2);
        assert!(report_in(city.advance(start() + quarter * 3)).is_some());
    }

    #[test]
    fn idle_drivers_follow_a_neighbour_that_is_clearly_dearer() {
        let mut city = city(1);
        let here = Zone::at(grand_central());
        let neighbour = city.area.k_ring(here).unwrap().neighbours()[0];
        let zones = city.area.zones().iter();
        let published = |dearest: f64| {
            let calm = zones.clone().map(|zone| (*zone, Multiplier::ONE));
            let mut map: HashMap<_, _> = calm.collect();
            map.insert(neighbour, Multiplier::rounded(dearest));
            map
        };
        let (little, much) = (published(1.1), published(1.2));
        city.published = little;
        assert_eq!(city.dearer_neighbour(grand_central()), None);
        city.published = much;
        assert_eq!(city.dearer_neighbour(grand_central()), Some(neighbour));
    }
}
