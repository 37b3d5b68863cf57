//! A mode or a floor, and the search for what it sustains.

use std::sync::Arc;
use std::time::Duration;

use surge_proto::DataflowMode;
use tokio_util::sync::CancellationToken;

use super::sustained::was_taken_away;
use super::{Capacity, Effort, is_sustained, micros_per_quote, most_in_flight};
use crate::GRACE;
use crate::measure::{Measured, RoundRobin, Trips};
use crate::processor::{Rate, Reading, Seconds};
use crate::report;
use crate::series::Probe;
use crate::suite::{QUOTE_DEADLINE, Suite};
use crate::tally::Failures;
use engine::search;
use engine::{LoadPlan, QuoteClient, Schedule};

/// A mode or a floor in the rounds.
pub(super) struct Contender<'a> {
    pub(super) mode: DataflowMode,
    quotes: RoundRobin,
    suite: &'a Suite,
    pub(super) is_floor: bool,
    pub(super) found: Capacity,
}

impl<'a> Contender<'a> {
    pub(super) fn service(suite: &'a Suite, mode: DataflowMode, trips: &Trips) -> Self {
        Self::new(suite, suite.desk.clone(), mode, trips)
    }

    pub(super) fn floor(
        suite: &'a Suite,
        desk: QuoteClient,
        mode: DataflowMode,
        trips: &Trips,
    ) -> Self {
        Self {
            is_floor: true,
            ..Self::new(suite, desk, mode, trips)
        }
    }

    fn new(suite: &'a Suite, desk: QuoteClient, mode: DataflowMode, trips: &Trips) -> Self {
        Self {
            mode,
            quotes: RoundRobin {
                desk,
                modes: vec![mode],
                trips: Arc::clone(trips),
                oracle: Arc::new(|_| None),
                recorder: None,
            },
            suite,
            is_floor: false,
            found: Capacity::new(),
        }
    }

    pub(super) async fn round(&mut self, effort: Effort, idle: Rate, stop: &CancellationToken) {
        if self.found.rounds.is_empty() && self.is_floor {
            let quiet = self.probe(effort.quiet_rate, effort.probe * 2, stop).await;
            self.found.quiet = quiet.tally(self.mode).latency.clone();
        }
        let from = match self.found.rounds.last() {
            Some(&last) => last,
            None => self.saturated(effort, idle, stop).await,
        };
        let found = effort
            .search
            .highest(from, async |rate| {
                self.holds(rate, effort, idle, stop).await
            })
            .await;
        if !stop.is_cancelled() {
            self.found.rounds.extend(found);
            self.found.fruitless += u32::from(found.is_none());
        }
    }

    /// About where the capacity is: what gets done of far too much. It spares the search most of its way.
    async fn saturated(&mut self, effort: Effort, idle: Rate, stop: &CancellationToken) -> u32 {
        let mut rate = 4_000;
        while rate < search::HIGHEST && !stop.is_cancelled() {
            let measured = self.try_once(rate, effort.probe / 2, idle, stop).await;
            if !is_sustained(&measured, self.mode) {
                return measured.answered_per_s(self.mode).unwrap_or(rate);
            }
            rate *= 4;
        }
        rate
    }

    async fn holds(
        &mut self,
        rate: u32,
        effort: Effort,
        idle: Rate,
        stop: &CancellationToken,
    ) -> bool {
        if stop.is_cancelled() {
            return false;
        }
        let measured = self.attempt(rate, effort, idle, stop).await;
        is_sustained(&measured, self.mode)
    }

    /// Asks at this rate until what comes of it says something of the service.
    async fn attempt(
        &mut self,
        rate: u32,
        effort: Effort,
        idle: Rate,
        stop: &CancellationToken,
    ) -> Measured {
        let mode = self.mode;
        let disturbed = |probe: &Measured| !stop.is_cancelled() && was_taken_away(probe, mode);
        let left = effort.most_repeated.saturating_sub(self.found.repeated);
        let most = effort.repeats.min(left);
        let probe = async || self.try_once(rate, effort.probe, idle, stop).await;
        let (measured, repeated) = undisturbed(most, probe, disturbed).await;
        self.found.repeated += repeated;
        self.found.spoiled += u32::from(disturbed(&measured));
        let before_the_last = self.found.probes.iter_mut().rev().skip(1);
        for probe in before_the_last.take(repeated as usize) {
            probe.repeated = true;
        }
        measured
    }

    /// Asks at this rate, and writes down what came of it.
    async fn try_once(
        &mut self,
        rate: u32,
        length: Duration,
        idle: Rate,
        stop: &CancellationToken,
    ) -> Measured {
        let before = self.reading().await;
        let measured = self.probe(rate, length, stop).await;
        let used = before.used_until(self.reading().await, idle);
        self.note(rate, &measured, used);
        measured
    }

    fn note(&mut self, rate: u32, measured: &Measured, used: Seconds) {
        let (found, tally) = (&mut self.found, measured.tally(self.mode));
        let held = is_sustained(measured, self.mode);
        let mut cost = None;
        // A service that does not tell what it has used, for once, is left out with its quotes.
        if let (true, Some(services)) = (held, used.services) {
            cost = micros_per_quote(services, tally.quotes);
            found.spent = found.spent.plus(used);
            found.quotes += tally.quotes;
        }
        found.probes.push(Probe {
            mode: self.mode,
            floor: self.is_floor,
            rate_per_s: rate,
            held,
            latency_us: report::latency(&tally.latency),
            cpu_us_per_quote: cost.filter(|_| !self.is_floor).map(f64::round),
            stolen_share: measured.stolen.map(|stolen| stolen.stolen_share),
            repeated: false,
        });
        if let Some(failed) = tally.failures().next() {
            found.last_error = Some(failed.example.clone());
        }
        let wrong = tally.failures().find(|failures| failures.wrong_answers);
        if let (None, Some(Failures { example, .. })) = (&found.wrong, wrong) {
            found.wrong = Some(example.clone());
        }
    }

    async fn reading(&self) -> Reading {
        Reading::take(&self.suite.client, &self.suite.target).await
    }

    async fn probe(&self, rate: u32, length: Duration, stop: &CancellationToken) -> Measured {
        let plan = LoadPlan {
            schedule: Schedule::constant(rate, length),
            max_in_flight: most_in_flight(rate),
            drain: QUOTE_DEADLINE + GRACE,
        };
        self.quotes.run(plan, stop.clone()).await
    }
}

/// Makes a probe, and makes it again when it was disturbed, `most` times at most. Gives the last, and how many were made
/// before it.
async fn undisturbed<T>(
    most: u32,
    mut probe: impl AsyncFnMut() -> T,
    disturbed: impl Fn(&T) -> bool,
) -> (T, u32) {
    let (mut last, mut repeated) = (probe().await, 0);
    while repeated < most && disturbed(&last) {
        last = probe().await;
        repeated += 1;
    }
    (last, repeated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_probe_that_was_disturbed_is_made_again_but_not_for_ever() {
        let mut made = 0;
        let mut probe = async || {
            made += 1;
            made
        };
        assert_eq!(undisturbed(2, &mut probe, |_| false).await, (1, 0));
        assert_eq!(undisturbed(2, &mut probe, |&nth| nth == 2).await, (3, 1));
        assert_eq!(undisturbed(2, &mut probe, |_| true).await, (6, 2));
        assert_eq!(undisturbed(0, &mut probe, |_| true).await, (7, 0));
    }
}
