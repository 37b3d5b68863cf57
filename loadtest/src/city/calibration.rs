//! The city against services without delay or failure: does an evening come out as it was calibrated?
//!
//! The real services are far away here. Every errand is answered at once and from the books alone, so a whole evening
//! passes in seconds and always in the same way.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use marketplace::{Bounds, DemandProfile, MarketTime, ServiceArea, Zone, fare};
use uuid::Uuid;

use super::DEFAULT_FLEET;
use super::draws::Draws;
use super::driver::{Driver, Ride};
use super::errands::{Errand, News};
use super::replay::Replay;
use super::rider::Rider;
use super::simulation::Simulation;
use super::tally::CityProgress;
use crate::books::Books;
use crate::clock::MarketClock;
use crate::pickups;

#[test]
fn the_early_evening_is_short_of_cars() {
    let outcome = Evening::of(1).lived(Duration::from_secs(2 * 3600));
    let share = |part: u64| part as f64 / outcome.quotes as f64;
    assert!(outcome.quotes > 1_400, "{outcome:?}");
    assert!(
        (0.07..0.13).contains(&share(outcome.priced_out)),
        "{outcome:?}"
    );
    assert!(
        (0.10..0.20).contains(&share(outcome.unserved)),
        "{outcome:?}"
    );
    assert!(
        (1.15..1.35).contains(&outcome.mean_multiplier.unwrap()),
        "{outcome:?}"
    );
    assert_eq!(outcome.errors(), 0);
}

#[test]
fn a_seed_repeats_an_evening_to_the_last_ride() {
    let quarter_of_an_hour = |seed| Evening::of(seed).lived(Duration::from_secs(15 * 60));
    assert_eq!(quarter_of_an_hour(1), quarter_of_an_hour(1));
}

/// The city of the bundled evening and services that know and do everything at once.
struct Evening {
    books: Arc<Books>,
    simulation: Simulation,
    rides: u128,
}

impl Evening {
    fn of(seed: u64) -> Self {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data");
        let profile = std::fs::read(data.join("demand-profile.json")).unwrap();
        let profile: DemandProfile = serde_json::from_slice(&profile).unwrap();
        let area = Arc::new(ServiceArea::new(Bounds::NEW_YORK));
        let mut record =
            pickups::read(data.join("uber-pickups-2014-04-04-evening.csv.gz")).unwrap();
        record.retain(|pickup| area.zone_of(pickup.position).is_ok());

        let draws = Draws::new(seed);
        let books = Arc::new(Books::new(area, Arc::new(profile), start()));
        let replay = Replay::starting(&record, start()).unwrap();
        let places = replay.places();
        let fleet: Vec<Driver> = (0..DEFAULT_FLEET as u64)
            .map(|number| Driver::starting(number, draws, &places, start()))
            .collect();
        let clock = MarketClock::new(start(), 0, 60.0);
        let simulation = Simulation::new(draws, Arc::clone(&books), replay, fleet, &clock, start());
        simulation.book_fleet();
        Self {
            books,
            simulation,
            rides: 0,
        }
    }

    fn lived(mut self, length: Duration) -> CityProgress {
        let end = start() + length;
        while let Some(now) = self.simulation.next_at().filter(|next_at| *next_at < end) {
            for errand in self.simulation.advance(now) {
                self.answer(errand, now);
            }
        }
        self.simulation.tally().progress(end)
    }

    fn answer(&mut self, errand: Errand, now: MarketTime) {
        match errand {
            Errand::Hail(rider) => self.hail(&rider, now),
            Errand::Progress {
                driver,
                ride,
                status,
                ..
            } => self.tell(
                News::Progressed {
                    driver,
                    ride,
                    status,
                },
                now,
            ),
            Errand::Report(positions) => self.tell(News::Reported(positions), now),
            Errand::LookAtSurge => self.publish(now),
            Errand::BringBack { .. } | Errand::Confirm { .. } => panic!("nothing ever fails here"),
        }
    }

    fn hail(&mut self, rider: &Rider, now: MarketTime) {
        let zone = Zone::at(rider.trip.pickup);
        let multiplier = self.books.multiplier(zone, now).unwrap();
        self.tell(News::Quoted(multiplier), now);
        if multiplier.as_f64() > rider.willingness {
            self.tell(News::PricedOut, now);
        } else {
            self.tell(News::Requested { zone, at: now }, now);
            self.dispatch(rider, now);
        }
        self.tell(News::HailOver, now);
    }

    fn dispatch(&mut self, rider: &Rider, now: MarketTime) {
        let Some((driver, position)) = self.books.nearest_idle(rider.trip.pickup) else {
            return self.tell(News::Unserved, now);
        };
        self.rides += 1;
        let ride = Ride {
            id: Uuid::from_u128(self.rides),
            trip: rider.trip,
            traffic: rider.traffic,
        };
        self.tell(News::Matched { driver, ride }, now);
        let wait = fare::pickup_minutes(position, rider.trip.pickup) * 60.0;
        if wait > rider.patience.as_secs_f64() {
            let ride = ride.id;
            self.tell(News::Cancelled { driver, ride }, now);
        }
    }

    fn publish(&mut self, now: MarketTime) {
        let zones = self.books.area().zones().iter();
        let published = zones.map(|zone| (*zone, self.books.multiplier(*zone, now).unwrap()));
        let published = published.collect();
        self.tell(News::Surge(published), now);
    }

    fn tell(&mut self, news: News, now: MarketTime) {
        assert_eq!(self.simulation.hear(news, now), None);
    }
}

fn start() -> MarketTime {
    "2014-04-04T17:00:00-04:00".parse().unwrap()
}
