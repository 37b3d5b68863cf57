//! A city whose services are the test: it returns any outcome and checks the commands that follow.

use marketplace::backtest::Pickup;
use marketplace::{Bounds, DemandProfile};

use super::*;
use crate::driver::minutes;
use crate::rider::TripRequest;

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

/// A city with two drivers at Grand Central and two pickups in the first minute.
fn city(seed: u64) -> Simulation {
    let midtown = Bounds::new(40.72, -74.0, 40.77, -73.96).unwrap();
    let area = Arc::new(ServiceArea::new(midtown));
    let profile = DemandProfile::flat(area.zones());
    let truth = Arc::new(GroundTruth::new(area, Arc::new(profile), start()));
    let pickup = |position| Pickup {
        at: start(),
        position,
        base: String::new(),
    };
    let record = [pickup(grand_central()), pickup(union_square())];
    let replay = Replay::starting(&record, start()).unwrap();
    let streams = RandomStreams::new(seed);
    let fleet: Vec<SimulatedDriver> = (0..2)
        .map(|number| SimulatedDriver::starting(number, streams, &[grand_central()], start()))
        .collect();
    let clock = CityClock::new(start(), 0, 60.0);
    let city = Simulation::new(streams, truth, replay, fleet, &clock, start());
    city.record_fleet(start());
    city
}

fn ride() -> SimulatedRide {
    SimulatedRide {
        id: RIDE,
        trip: TripRequest {
            pickup: union_square(),
            dropoff: grand_central(),
        },
        traffic: 1.0,
    }
}

/// Advances to the next command that concerns a ride; returns it and its time.
fn next_progress(city: &mut Simulation) -> (CityCommand, MarketTime) {
    for _ in 0..10_000 {
        let now = city.next_at().unwrap();
        let commands = city.advance(now);
        let progress = commands
            .into_iter()
            .find(|command| matches!(command, CityCommand::Progress { .. }));
        if let Some(progress) = progress {
            return (progress, now);
        }
    }
    panic!("nobody was picked up or dropped off");
}

fn supply_at(city: &Simulation, place: Position, now: MarketTime) -> f64 {
    city.truth.supply(Zone::at(place), now)
}

#[test]
fn every_replay_has_the_same_riders() {
    let seekers = |seed| {
        let commands = city(seed).advance(start() + MINUTE);
        let riders = commands.into_iter().filter_map(|command| match command {
            CityCommand::SeekRide(rider) => Some(rider),
            _ => None,
        });
        riders.collect::<Vec<_>>()
    };
    assert_eq!(seekers(7).len(), 2);
    assert_eq!(seekers(7), seekers(7));
    assert_ne!(seekers(7), seekers(8));
}

#[test]
fn ride_goes_from_dispatch_to_dropoff() {
    let mut city = city(1);
    let driver = city.fleet()[0].id;
    city.handle(
        CommandOutcome::Matched {
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
        CityCommand::Progress {
            driver,
            ride: RIDE,
            status: on_trip,
            position: union_square()
        }
    );
    let progressed = |status| CommandOutcome::Progressed {
        driver,
        ride: RIDE,
        status,
    };
    city.handle(progressed(on_trip), at_pickup);

    let (_, at_dropoff) = next_progress(&mut city);
    assert_eq!(at_dropoff, at_pickup + ride().expected());
    // The trip is long: without a report meanwhile, both drivers would be silent by now.
    let reports: Vec<_> = city
        .fleet()
        .iter()
        .map(|driver| (driver.id, grand_central()))
        .collect();
    city.truth.positions_reported(at_dropoff, &reports);
    // Due now, so the driver counts as supply before the report of the dropoff and after it.
    assert_eq!(supply_at(&city, grand_central(), at_dropoff), 2.0);
    city.handle(progressed(DriverStatus::Idle), at_dropoff);
    assert_eq!(supply_at(&city, grand_central(), at_dropoff), 2.0);
    assert_eq!(city.counters().completed, 1);
}

#[test]
fn cancelled_ride_frees_its_driver() {
    let mut city = city(1);
    let driver = city.fleet()[0].id;
    city.handle(
        CommandOutcome::Matched {
            driver,
            ride: ride(),
        },
        start(),
    );
    city.handle(CommandOutcome::Cancelled { driver, ride: RIDE }, start());
    assert_eq!(supply_at(&city, grand_central(), start()), 2.0);
    assert_eq!(city.counters().unserved, 1);
    let later = start() + MINUTE * 60;
    let commands = city.advance(later);
    assert!(
        !commands
            .iter()
            .any(|command| matches!(command, CityCommand::Progress { .. }))
    );
}

#[test]
fn late_cancellation_leaves_the_next_ride() {
    let mut city = city(1);
    let driver = city.fleet()[0].id;
    let next = SimulatedRide {
        id: Uuid::from_u128(2),
        ..ride()
    };
    city.handle(
        CommandOutcome::Matched {
            driver,
            ride: ride(),
        },
        start(),
    );
    city.handle(CommandOutcome::Matched { driver, ride: next }, start());
    city.handle(CommandOutcome::Cancelled { driver, ride: RIDE }, start());
    assert!(city.fleet()[0].is_on(next.id));
}

#[test]
fn driver_of_an_unknown_ride_is_resynced() {
    let mut city = city(1);
    let driver = city.fleet()[0].id;
    city.handle(CommandOutcome::RequestLost, start());
    let confirms = city.advance(start() + MINUTE * 4);
    assert!(confirms.contains(&CityCommand::Confirm {
        driver,
        position: grand_central()
    }));
    // At the first refusal, the outcome of a ride may be late; at the second it is lost.
    assert_eq!(city.handle(CommandOutcome::Disputed(driver), start()), None);
    let resync = CityCommand::Resync {
        driver,
        position: grand_central(),
    };
    let again = city.handle(CommandOutcome::Disputed(driver), start());
    assert_eq!(again, Some(resync));
}

#[test]
fn driver_with_a_refused_status_is_resynced() {
    let mut city = city(1);
    let driver = city.fleet()[0].id;
    city.handle(
        CommandOutcome::Matched {
            driver,
            ride: ride(),
        },
        start(),
    );
    city.handle(CommandOutcome::Desynced { driver, ride: RIDE }, start());
    let commands = city.advance(start() + MINUTE * 4);
    let resync = |command: &CityCommand| matches!(command, CityCommand::Resync { .. });
    assert!(commands.iter().any(resync));
    assert_eq!(city.counters().lost, 1);

    let position = union_square();
    city.handle(
        CommandOutcome::IsIdle { driver, position },
        start() + MINUTE * 4,
    );
    assert_eq!(city.fleet()[0].activity, Activity::Idle);
}

#[test]
fn only_moved_drivers_report() {
    let mut city = city(1);
    let report_in = |commands: Vec<CityCommand>| {
        commands.into_iter().find_map(|command| match command {
            CityCommand::Report(positions) => Some(positions),
            _ => None,
        })
    };
    let quarter = Duration::from_secs(15);
    assert_eq!(report_in(city.advance(start())), None);
    city.fleet[0].head_for(union_square(), start());
    let report = report_in(city.advance(start() + quarter)).unwrap();
    assert_eq!(report.len(), 1);
    assert_eq!(report[0].0, city.fleet()[0].id);
    // While the report is in flight there is no other; afterwards the driver has moved on.
    assert_eq!(report_in(city.advance(start() + quarter * 2)), None);
    city.handle(CommandOutcome::Reported(report), start() + quarter * 2);
    assert!(report_in(city.advance(start() + quarter * 3)).is_some());
}

#[test]
fn idle_drivers_follow_clearly_higher_multipliers() {
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
    assert_eq!(city.more_expensive_neighbour(grand_central()), None);
    city.published = much;
    assert_eq!(
        city.more_expensive_neighbour(grand_central()),
        Some(neighbour)
    );
}
