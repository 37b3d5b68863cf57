//! The search for the highest rate that a server sustains.
//!
//! ```text
//!   from 500: 500 ok, 1000 ok, 2000 ok, 4000 fails      growing strides, up or down
//!   bisect:   2828 ok, 3364 fails, 3084 ok              geometric, until the gap is small
//!   check:    3364 once more: fails, so 3084            a hiccup must not pass for the limit
//! ```

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// The factor from the first rate to the second; each further one is squared, up to 2.
    pub stride: f64,
    /// The search ends when the rate that failed is at most this factor above the one that held.
    pub precision: f64,
    /// The search also ends after this number of tries, once one rate held.
    pub most_tries: u32,
}

/// Tries rates, and counts the tries.
struct Tries<F> {
    holds: F,
    left: u32,
}

impl<F: AsyncFnMut(u32) -> bool> Tries<F> {
    async fn holds(&mut self, rate: u32) -> bool {
        self.left = self.left.saturating_sub(1);
        (self.holds)(rate).await
    }

    const fn are_over(&self) -> bool {
        self.left == 0
    }
}

/// The lowest rate to try: a server that cannot sustain it has no capacity worth a figure.
const LOWEST: u32 = 20;

/// The highest rate to try: beyond what the generator can send.
pub const HIGHEST: u32 = 200_000;

const LONGEST_STRIDE: f64 = 2.0;

/// How often the search checks whether the limit that it found was a hiccup.
const SECOND_LOOKS: u32 = 2;

impl Search {
    /// The highest rate, per second, for which `holds` returned true; the first try is `from`.
    /// `None` if no rate held.
    ///
    /// At the end, the search tries the lowest failed rate again. If it holds now, the search goes
    /// on from there: a hiccup of the machine is not the limit of the server, however many tries in
    /// a row it hit.
    pub async fn highest(self, from: u32, holds: impl AsyncFnMut(u32) -> bool) -> Option<u32> {
        let from = from.clamp(LOWEST, HIGHEST);
        let left = self.most_tries;
        let mut tries = Tries { holds, left };
        let (mut held, mut broken) = if tries.holds(from).await {
            self.search_up(from, &mut tries).await
        } else {
            self.search_down(from, &mut tries).await?
        };
        for _ in 0..SECOND_LOOKS {
            (held, broken) = self.narrow(held, broken, &mut tries).await;
            if broken == held || tries.are_over() || !tries.holds(broken).await {
                break;
            }
            (held, broken) = self.search_up(broken, &mut tries).await;
        }
        Some(held)
    }

    /// From a rate that holds up to one that fails; the highest twice if all hold.
    async fn search_up(
        self,
        from: u32,
        tries: &mut Tries<impl AsyncFnMut(u32) -> bool>,
    ) -> (u32, u32) {
        let mut held = from;
        for stride in self.strides() {
            let higher = times(held, stride);
            if higher > HIGHEST || tries.are_over() {
                break;
            }
            if !tries.holds(higher).await {
                return (held, higher);
            }
            held = higher;
        }
        (held, held)
    }

    /// From a rate that fails down to one that holds.
    async fn search_down(
        self,
        from: u32,
        tries: &mut Tries<impl AsyncFnMut(u32) -> bool>,
    ) -> Option<(u32, u32)> {
        let mut broken = from;
        for stride in self.strides() {
            if broken == LOWEST {
                break;
            }
            let lower = times(broken, 1.0 / stride).max(LOWEST);
            if tries.holds(lower).await {
                return Some((lower, broken));
            }
            broken = lower;
        }
        None
    }

    /// Halves the gap between the two.
    async fn narrow(
        self,
        mut held: u32,
        mut broken: u32,
        tries: &mut Tries<impl AsyncFnMut(u32) -> bool>,
    ) -> (u32, u32) {
        while self.is_apart(held, broken) && !tries.are_over() {
            let middle = (f64::from(held) * f64::from(broken)).sqrt().round() as u32;
            if tries.holds(middle).await {
                held = middle;
            } else {
                broken = middle;
            }
        }
        (held, broken)
    }

    /// Whether a rate between the two is worth a try.
    fn is_apart(self, held: u32, broken: u32) -> bool {
        broken > held + 1 && f64::from(broken) > f64::from(held) * self.precision
    }

    /// Short strides first, because the guess may be nearly right.
    fn strides(self) -> impl Iterator<Item = f64> {
        std::iter::successors(Some(self.stride), |stride| {
            Some((stride * stride).min(LONGEST_STRIDE))
        })
    }
}

fn times(rate: u32, factor: f64) -> u32 {
    (f64::from(rate) * factor).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: u32 = 500;

    const SEARCH: Search = Search {
        stride: 2.0,
        precision: 1.05,
        most_tries: 60,
    };

    #[tokio::test]
    async fn finds_the_limit_from_either_side() {
        for limit in [30_u32, 480, 512, 7_300, 61_000] {
            let found = SEARCH
                .highest(FROM, async |rate| rate <= limit)
                .await
                .unwrap();
            assert!(found <= limit, "{found} of {limit}");
            assert!(
                f64::from(found) * 1.05 + 2.0 > f64::from(limit),
                "{found} of {limit}"
            );
        }
    }

    #[tokio::test]
    async fn hiccup_is_not_the_limit() {
        for (first, last) in [(1, 1), (2, 2), (1, 4), (6, 9)] {
            let mut probes = 0;
            let found = SEARCH
                .highest(FROM, async |rate| {
                    probes += 1;
                    rate <= 7_300 && !(first..=last).contains(&probes)
                })
                .await;
            assert!(found.is_some_and(|found| found > 6_900), "{found:?}");
        }
    }

    #[tokio::test]
    async fn unsteady_server_ends_the_search_too() {
        let mut probes = 0;
        let found = SEARCH
            .highest(FROM, async |rate| {
                probes += 1;
                rate <= 7_300 || probes % 2 == 0
            })
            .await;
        assert!(found.is_some() && probes < 60, "{probes} probes");
    }

    #[tokio::test]
    async fn short_search_returns_its_best_rate() {
        for (from, limit) in [(500, 61_000), (61_000, 500)] {
            let mut probes = 0;
            let short = Search {
                most_tries: 4,
                ..SEARCH
            };
            let found = short
                .highest(from, async |rate| {
                    probes += 1;
                    rate <= limit
                })
                .await;
            assert!(found.is_some_and(|found| found <= limit), "{found:?}");
            assert!(probes == 4 || from > limit, "{probes} probes");
        }
    }

    #[tokio::test]
    async fn search_ends_at_both_extremes() {
        assert_eq!(SEARCH.highest(FROM, async |_| false).await, None);
        assert!(SEARCH.highest(FROM, async |_| true).await > Some(HIGHEST / 2));
    }
}
