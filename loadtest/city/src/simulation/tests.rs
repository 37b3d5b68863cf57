//! A city whose services are the test: it tells the city any news, and sees what errands follow.

use marketplace::backtest::Pickup;
use marketplace::{Bounds, DemandProfile};

use super::rides::{expected_minutes, minutes};
use super::*;
use crate::rider::TripAsk;

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
