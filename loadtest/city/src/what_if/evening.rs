//! An evening to live again and again, and the services that it meets: they know everything and do it at once.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use marketplace::backtest::Pickup;
use marketplace::{Bounds, DemandProfile, MarketTime, Multiplier, ServiceArea, Zone, fare};
use uuid::Uuid;

use super::prices::{HalfHours, Prices};
use super::{Pricing, Score};
use crate::books::Books;
use crate::clock::MarketClock;
use crate::crowd::Crowd;
use crate::draws::Draws;
use crate::driver::{Driver, Ride};
use crate::errands::{Errand, News};
use crate::replay::Replay;
use crate::rider::Rider;
use crate::simulation::Simulation;

/// An evening: who lives in it, and which part of it counts. Clones share the record.
#[derive(Debug, Clone)]
pub struct Evening {
    area: Arc<ServiceArea>,
    profile: Arc<DemandProfile>,
    /// Inside the service area, one at least.
    pickups: Arc<[Pickup]>,
    fleet: usize,
    scored: Range<MarketTime>,
    crowds: Vec<Crowd>,
}

/// How long a city lives before it is scored. Drivers find their riders within half an hour; the rest is the past that
/// quotes from data of an hour ago are made from.
const WARM_UP: Duration = Duration::from_secs(90 * 60);

impl Evening {
    /// The evening whose riders are scored who appear in `scored`; `None` if nothing is on record inside the area.
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

    /// The same evening, and these crowds besides.
    #[must_use]
    pub fn with_crowds(self, crowds: Vec<Crowd>) -> Self {
        Self { crowds, ..self }
    }

    /// The riders who appear in this time are scored.
    pub const fn scored(&self) -> &Range<MarketTime> {
        &self.scored
    }

    /// Who lives in the evening, by the chance of this seed.
    pub fn cast(&self, seed: u64) -> Cast {
        let draws = Draws::new(seed);
        let start = self.starts_at();
        let mut replay = self.replay_from(start);
        let places = replay.places();
        let crowds = self.crowds.iter().flat_map(Crowd::played);
        let played = replay.play(self.scored.end).into_iter().chain(crowds);
        let driver = |number| Driver::starting(number, draws, &places, start);
        Cast {
            riders: played
                .map(|played| Rider::behind(&played, &places, draws))
                .collect(),
            fleet: (0..self.fleet as u64).map(driver).collect(),
            evening: self.clone(),
            draws,
        }
    }

    /// The record from `start` on.
    fn replay_from(&self, start: MarketTime) -> Replay {
        Replay::starting(&self.pickups, start).expect("an evening has one pickup at least")
    }

    /// The evening before had its own riders, and no crowd.
    fn a_day_earlier(&self) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            scored: self.scored.start - DAY..self.scored.end - DAY,
            crowds: Vec::new(),
            ..self.clone()
        }
    }

    fn starts_at(&self) -> MarketTime {
        self.scored.start - WARM_UP
    }

    fn open_books(&self) -> Books {
        let (area, profile) = (Arc::clone(&self.area), Arc::clone(&self.profile));
        Books::new(area, profile, self.starts_at())
    }
}

/// An evening with its drivers and riders, to be lived with one pricing after the other: they are the same people,
/// whatever they are quoted.
#[derive(Debug, Clone)]
pub struct Cast {
    evening: Evening,
    draws: Draws,
    fleet: Vec<Driver>,
    riders: Vec<Rider>,
}

impl Cast {
    /// Lives the evening once.
    pub fn lived(&self, pricing: Pricing) -> Score {
        let before = match pricing {
            Pricing::Nightly => self.evening_before().half_hours(),
            _ => HalfHours::default(),
        };
        let mut town = Town::of(self, pricing, before);
        town.live_until(self.evening.scored.end, |_, _| {});
        town.score
    }

    /// What fresh data gave this evening, by zone and half hour.
    fn half_hours(&self) -> HalfHours {
        let mut half_hours = HalfHours::default();
        let mut town = Town::of(self, Pricing::FRESH, HalfHours::default());
        town.live_until(self.evening.scored.end, |published, now| {
            half_hours.add(published, now);
        });
        half_hours
    }

    fn evening_before(&self) -> Self {
        self.evening.a_day_earlier().cast(self.draws.seed())
    }
}

/// A city and its services, in one.
struct Town {
    books: Arc<Books>,
    simulation: Simulation,
    prices: Prices,
    scored: Range<MarketTime>,
    rides: u128,
    score: Score,
}

impl Town {
    fn of(cast: &Cast, pricing: Pricing, before: HalfHours) -> Self {
        let Cast { evening, draws, .. } = cast;
        let start = evening.starts_at();
        let books = Arc::new(evening.open_books().with_journal());
        // The riders of the evening were drawn already, so the record has nothing to add to them.
        let replay = evening.replay_from(evening.scored.end);
        let fleet = cast.fleet.clone();
        // As slow as life: the services of this city take as many calls as it likes to make.
        let clock = MarketClock::new(start, 0, 1.0);
        let mut simulation =
            Simulation::new(*draws, Arc::clone(&books), replay, fleet, &clock, start);
        simulation.book_fleet();
        simulation.expect(cast.riders.iter().cloned());
        let past = evening.open_books();
        Self {
            prices: Prices::new(pricing, Arc::clone(&books), past, start, before),
            books,
            simulation,
            scored: evening.scored.clone(),
            rides: 0,
            score: Score::default(),
        }
    }

    /// Lets everything happen that is due before `end`; `look` sees what drivers see, once a minute.
    fn live_until(
        &mut self,
        end: MarketTime,
        mut look: impl FnMut(&HashMap<Zone, Multiplier>, MarketTime),
    ) {
        while let Some(now) = self.simulation.next_at().filter(|next_at| *next_at < end) {
            for errand in self.simulation.advance(now) {
                if matches!(errand, Errand::LookAtSurge) {
                    let published = self.prices.published(now);
                    look(&published, now);
                    self.tell(News::Surge(published), now);
                } else {
                    self.answer(errand, now);
                }
            }
        }
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
            Errand::LookAtSurge | Errand::BringBack { .. } | Errand::Confirm { .. } => {
                unreachable!("who looks is answered above, and nothing ever fails here")
            }
        }
    }

    fn hail(&mut self, rider: &Rider, now: MarketTime) {
        let zone = Zone::at(rider.trip.pickup);
        // Both are there for every zone of the area, and nobody is picked up outside it.
        let quoted = self.prices.quoted(zone, now);
        let (Some(multiplier), Some(oracle)) = (quoted, self.prices.oracle(zone, now)) else {
            return self.tell(News::HailOver, now);
        };
        let mut score = self.score;
        score.quoted(multiplier, oracle);
        self.tell(News::Quoted(multiplier), now);
        if multiplier.as_f64() > rider.willingness {
            score.priced_out += 1;
            self.tell(News::PricedOut, now);
        } else {
            score.requests += 1;
            self.tell(News::Requested { zone, at: now }, now);
            match self.dispatch(rider, now) {
                Some(wait) => score.driven(rider, multiplier, wait),
                None => score.unserved += 1,
            }
        }
        self.tell(News::HailOver, now);
        if self.scored.contains(&rider.appears_at) {
            self.score = score;
        }
    }

    /// Sends the nearest driver; returns the minutes that the rider waits, or `None` for one who does not.
    fn dispatch(&mut self, rider: &Rider, now: MarketTime) -> Option<f64> {
        let Some((driver, position)) = self.books.nearest_idle(rider.trip.pickup) else {
            self.tell(News::Unserved, now);
            return None;
        };
        self.rides += 1;
        let ride = Ride {
            id: Uuid::from_u128(self.rides),
            trip: rider.trip,
            traffic: rider.traffic,
        };
        self.tell(News::Matched { driver, ride }, now);
        let wait = fare::pickup_minutes(position, rider.trip.pickup);
        if wait * 60.0 > rider.patience.as_secs_f64() {
            let ride = ride.id;
            self.tell(News::Cancelled { driver, ride }, now);
            return None;
        }
        Some(wait)
    }

    fn tell(&mut self, news: News, now: MarketTime) {
        let errand = self.simulation.hear(news, now);
        debug_assert_eq!(errand, None, "services that never fail leave nothing to do");
        self.prices.note(now);
    }
}
