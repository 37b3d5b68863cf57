//! Seeded random streams: every random decision depends on the seed and on *who* decides *what*,
//! never on when.
//!
//! One generator for all would hand out its numbers in the order in which answers arrive. Here each
//! rider and each driver has streams of their own, so a slow service changes what riders meet, not
//! who they are.

use marketplace::Position;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, LogNormal};
use uuid::Uuid;

/// The owner of a random stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject {
    /// A rider, by number.
    Rider = 1,
    /// A driver, by number.
    Driver = 2,
    /// A trip of the quote load, by number.
    Trip = 3,
}

/// All random streams of one city.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RandomStreams {
    seed: u64,
}

impl RandomStreams {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The seed of all streams.
    pub(crate) const fn seed(self) -> u64 {
        self.seed
    }

    /// The stream for one decision of a subject, by number of the decision.
    pub(crate) fn of(self, subject: Subject, number: u64, decision: u64) -> ChaCha8Rng {
        let mut key = [0; 32];
        for (place, part) in
            key.chunks_exact_mut(8)
                .zip([self.seed, subject as u64, number, decision])
        {
            place.copy_from_slice(&part.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }
}

/// A random id. Version 4, not 7, because the same seed must give the same ids.
pub(crate) fn id(rng: &mut ChaCha8Rng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid()
}

/// A log-normal number with this median and spread.
pub(crate) fn log_normal(median: f64, sigma: f64, rng: &mut ChaCha8Rng) -> f64 {
    LogNormal::new(median.ln(), sigma)
        .expect("the medians and spreads of the city are positive constants")
        .sample(rng)
}

/// A random place of the list.
pub(crate) fn place(places: &[Position], rng: &mut ChaCha8Rng) -> Position {
    places[rng.random_range(0..places.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_decision_has_its_own_stream() {
        let draw = |seed, subject, number, decision| -> u64 {
            RandomStreams::new(seed)
                .of(subject, number, decision)
                .random()
        };
        let answer = draw(1, Subject::Rider, 7, 0);
        assert_eq!(draw(1, Subject::Rider, 7, 0), answer);
        for other in [
            draw(2, Subject::Rider, 7, 0),
            draw(1, Subject::Driver, 7, 0),
            draw(1, Subject::Rider, 8, 0),
            draw(1, Subject::Rider, 7, 1),
        ] {
            assert_ne!(other, answer);
        }
    }

    #[test]
    fn half_the_numbers_are_below_the_median() {
        let streams = RandomStreams::new(1);
        let below = (0..1_000).filter(|number| {
            log_normal(8.0, 0.4, &mut streams.of(Subject::Rider, *number, 0)) < 8.0
        });
        let below = below.count();
        assert!((450..550).contains(&below), "{below}");
    }
}
