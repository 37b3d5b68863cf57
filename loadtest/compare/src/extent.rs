//! How much of what was asked for was done. A run that was cut short, or that is void, says what there is of it.

use serde::{Deserialize, Serialize};

/// The parts of a run, each with what was planned; a part that nobody asked for has none planned and none done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Extent {
    /// Whether it came to its end: not interrupted, and nothing left out.
    pub complete: bool,
    /// Length of the measurement as asked for, real seconds.
    pub planned_s: f64,
    /// For how long of it quotes were asked, real seconds.
    pub measured_s: f64,
    /// Searches for a capacity, of each mode and each floor in each round.
    pub planned_searches: u32,
    /// Those that were carried out.
    pub searches: u32,
    /// Evenings to live with each pricing at most, where time allows.
    pub most_market_seeds: u32,
    /// Those that were lived with every pricing.
    pub market_seeds: u32,
}

impl Extent {
    /// What was done of what, in a sentence.
    pub(crate) fn in_words(&self) -> String {
        let mut parts = vec![match (self.measured_s, self.planned_s) {
            (0.0, planned) => format!("none of {planned:.0} s of quotes"),
            (done, planned) if done < planned => format!("{done:.1} of {planned:.0} s of quotes"),
            (_, planned) => format!("all {planned:.0} s of quotes"),
        }];
        if self.planned_searches > 0 {
            parts.push(match (self.searches, self.planned_searches) {
                (0, planned) => format!("none of {planned} searches for a capacity"),
                (done, planned) if done < planned => {
                    format!("{done} of {planned} searches for a capacity")
                }
                (_, planned) => format!("all {planned} searches for a capacity"),
            });
        }
        if self.most_market_seeds > 0 {
            parts.push(match self.market_seeds {
                0 => "no evening off the wire".to_owned(),
                seeds => format!("{seeds} evenings off the wire with each pricing"),
            });
        }
        format!("What was done: {}.", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_says_how_far_it_came() {
        let mut extent = Extent {
            planned_s: 60.0,
            measured_s: 23.14,
            planned_searches: 18,
            most_market_seeds: 24,
            ..Extent::default()
        };
        assert_eq!(
            extent.in_words(),
            "What was done: 23.1 of 60 s of quotes, none of 18 searches for a capacity, no evening off the wire."
        );
        extent.measured_s = 60.0;
        (extent.searches, extent.market_seeds) = (18, 7);
        assert_eq!(
            extent.in_words(),
            "What was done: all 60 s of quotes, all 18 searches for a capacity, 7 evenings off the wire with each \
             pricing."
        );
    }

    #[test]
    fn what_nobody_asked_for_is_not_missed() {
        let extent = Extent {
            planned_s: 12.0,
            ..Extent::default()
        };
        assert_eq!(extent.in_words(), "What was done: none of 12 s of quotes.");
    }
}
