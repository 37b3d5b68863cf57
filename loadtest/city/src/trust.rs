//! Whether the services agree with the ground truth. If they know drivers or riders that this city
//! did not make, the oracle is wrong, and nobody should read a multiplier error from it.
//!
//! **How this works.** At the start nothing has happened yet, so every zone must agree exactly
//! ([`at_start`]). Afterwards the market never stands still, so [`watch`] compares totals, once per
//! second: it reads the truth before and after the question to the services, and only a total above
//! both counts as an excess. The median of the last samples decides, because a change that the
//! service has accepted and the city has not yet seen lasts for one sample at most.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::ground_truth::GroundTruth;
use crate::services::{ServiceFailure, Services};
use crate::state::CityState;

const OTHER_DRIVERS: &str =
    "driver-management knows drivers of another city, which the oracle misses";
const OTHER_RIDERS: &str = "ride-management counts requests that are not of this city, or it \
    forecasts with another profile or window";

/// Compares every zone, before anything has happened. Drivers of a killed city are facts that this
/// one cannot know.
///
/// # Errors
/// If a service does not answer.
pub(crate) async fn at_start(
    services: &Services,
    truth: &GroundTruth,
) -> Result<Vec<String>, ServiceFailure> {
    let (mut supply_differs, mut demand_differs) = (false, false);
    for zone in truth.area().zones() {
        let (supply, demand) = tokio::try_join!(services.supply(*zone), services.demand(*zone))?;
        supply_differs |= differ(supply.supply, truth.supply(*zone, supply.as_of));
        demand_differs |= differ(demand.demand, truth.demand(*zone, demand.as_of));
    }
    Ok(reasons(supply_differs, demand_differs))
}

/// Whether two levels differ by more than what never shows in a price.
fn differ(one: f64, other: f64) -> bool {
    const UNNOTICEABLE: f64 = 0.01;
    (one - other).abs() > UNNOTICEABLE * (1.0 + one.abs())
}

fn reasons(other_drivers: bool, other_riders: bool) -> Vec<String> {
    let reasons = [(other_drivers, OTHER_DRIVERS), (other_riders, OTHER_RIDERS)];
    let found = reasons.into_iter().filter(|(found, _)| *found);
    found.map(|(_, reason)| reason.to_owned()).collect()
}

/// Compares totals once per second, until `stop`.
pub(crate) async fn watch(state: Arc<CityState>, services: Services, stop: CancellationToken) {
    const PERIOD: Duration = Duration::from_secs(1);
    /// A service that needs longer is overloaded: changes then reach the city late.
    const PROMPT: Duration = Duration::from_millis(100);
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut supply, mut demand) = (Excess::default(), Excess::default());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (before, asked_at) = (totals(&state), Instant::now());
        let Ok(services) = services.totals().await else {
            continue;
        };
        if asked_at.elapsed() > PROMPT {
            continue;
        }
        let after = totals(&state);
        supply.add(services.0, before.0.max(after.0));
        demand.add(services.1, before.1.max(after.1));
        // Two drivers, and a request, may be on their way.
        state.set_distrust(reasons(
            supply.is_above(2.0, 0.02),
            demand.is_above(1.0, 0.1),
        ));
    }
}

fn totals(state: &CityState) -> (f64, f64) {
    let levels = state
        .truth
        .levels(state.truth.area().zones(), state.clock.now());
    levels.iter().fold((0.0, 0.0), |sum, zone| {
        let value = |level: Option<marketplace::Level>| level.map_or(0.0, |level| level.value);
        (sum.0 + value(zone.supply), sum.1 + value(zone.demand))
    })
}

/// The last samples of how much more the services know.
#[derive(Debug, Default)]
struct Excess {
    /// What the services know, minus the truth; and the truth.
    samples: VecDeque<(f64, f64)>,
}

impl Excess {
    const SAMPLES: usize = 5;

    fn add(&mut self, known: f64, truth: f64) {
        self.samples.push_back((known - truth, truth));
        if self.samples.len() > Self::SAMPLES {
            self.samples.pop_front();
        }
    }

    /// Whether the median sample is above this number plus this share of the truth.
    fn is_above(&self, number: f64, share: f64) -> bool {
        let above = self
            .samples
            .iter()
            .filter(|(excess, truth)| *excess > number + share * truth);
        above.count() > Self::SAMPLES / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excess(samples: &[f64]) -> Excess {
        let mut excess = Excess::default();
        samples.iter().for_each(|known| excess.add(*known, 100.0));
        excess
    }

    #[test]
    fn one_late_answer_is_no_distrust() {
        assert!(!excess(&[100.0, 120.0, 99.0, 120.0, 100.0]).is_above(2.0, 0.02));
        assert!(!excess(&[103.0; 5]).is_above(2.0, 0.02));
    }

    #[test]
    fn lasting_excess_is_distrusted_and_forgotten() {
        let mut excess = excess(&[120.0; 3]);
        assert!(excess.is_above(2.0, 0.02));
        (0..3).for_each(|_| excess.add(100.0, 100.0));
        assert!(!excess.is_above(2.0, 0.02));
    }
}
