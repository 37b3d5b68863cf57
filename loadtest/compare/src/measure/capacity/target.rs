//! One mode or floor, and the search for the rate that it sustains.

use std::sync::Arc;
use std::time::Duration;

use engine::{QuoteClient, Schedule, search};
use surge_proto::DataflowMode;
use tokio_util::sync::CancellationToken;

use super::sustained::is_invalid_sample;
use super::{Capacity, Effort, is_sustained, micros_per_quote, most_in_flight};
use crate::measure::cpu_time::{CpuReading, CpuSeconds};
use crate::measure::mode_statistics::percentiles;
use crate::measure::round_robin::{LoadResult, RoundRobin, Trips};
use crate::measure::services::TestedServices;
use crate::report::CapacityProbe;

pub(super) struct SearchTarget<'a> {
    pub(super) mode: DataflowMode,
    pub(super) is_floor: bool,
    pub(super) found: Capacity,
    quotes: RoundRobin,
    services: &'a TestedServices,
}

impl<'a> SearchTarget<'a> {
    pub(super) fn new(
        services: &'a TestedServices,
        client: QuoteClient,
        mode: DataflowMode,
        trips: &Trips,
        is_floor: bool,
    ) -> Self {
        Self {
            mode,
            is_floor,
            found: Capacity::new(),
            quotes: RoundRobin {
                client,
                modes: vec![mode],
                trips: Arc::clone(trips),
                oracle: Arc::new(|_| None),
                time_series: None,
            },
            services,
        }
    }

    /// One search. The first one starts from a guess, the others from the result before.
    pub(super) async fn round(
        &mut self,
        effort: Effort,
        idle: CpuSeconds,
        stop: &CancellationToken,
    ) {
        if self.found.rounds.is_empty() && self.is_floor {
            let quiet = self.load(effort.quiet_rate, effort.probe * 2, stop).await;
            self.found.quiet = quiet.modes[&self.mode].latency.clone();
        }
        let from = match self.found.rounds.last() {
            Some(&last) => last,
            None => self.saturated(effort, idle, stop).await,
        };
        let mode = self.mode;
        let holds = async |rate| {
            !stop.is_cancelled()
                && is_sustained(&self.valid_probe(rate, effort, idle, stop).await, mode)
        };
        let found = effort.search.highest(from, holds).await;
        if !stop.is_cancelled() {
            self.found.rounds.extend(found);
            self.found.fruitless += u32::from(found.is_none());
        }
    }

    /// A guess of the capacity: the rate of answers when far too much is requested. It spares the
    /// search most of its way.
    async fn saturated(
        &mut self,
        effort: Effort,
        idle: CpuSeconds,
        stop: &CancellationToken,
    ) -> u32 {
        let mut rate = 4_000;
        while rate < search::HIGHEST && !stop.is_cancelled() {
            let load = self.probe(rate, effort.probe / 2, idle, stop).await;
            if !is_sustained(&load, self.mode) {
                let (quotes, seconds) =
                    (load.modes[&self.mode].quotes, load.lasted().as_secs_f64());
                return if seconds > 0.0 {
                    (quotes as f64 / seconds) as u32
                } else {
                    rate
                };
            }
            rate *= 4;
        }
        rate
    }

    /// Probes this rate until the sample is valid, or no repetition is left.
    async fn valid_probe(
        &mut self,
        rate: u32,
        effort: Effort,
        idle: CpuSeconds,
        stop: &CancellationToken,
    ) -> LoadResult {
        let mode = self.mode;
        let is_invalid = |load: &LoadResult| !stop.is_cancelled() && is_invalid_sample(load, mode);
        let left = effort.most_repeated.saturating_sub(self.found.repeated);
        let probe = async || self.probe(rate, effort.probe, idle, stop).await;
        let (load, repeated) = repeat_while(effort.repeats.min(left), probe, is_invalid).await;
        self.found.repeated += repeated;
        self.found.spoiled += u32::from(is_invalid(&load));
        let before_the_last = self.found.probes.iter_mut().rev().skip(1);
        for probe in before_the_last.take(repeated as usize) {
            probe.repeated = true;
        }
        load
    }

    /// Requests quotes at this rate, and records the result.
    async fn probe(
        &mut self,
        rate: u32,
        length: Duration,
        idle: CpuSeconds,
        stop: &CancellationToken,
    ) -> LoadResult {
        let services = self.services;
        let reading = async || CpuReading::take(&services.client, &services.target).await;
        let before = reading().await;
        let load = self.load(rate, length, stop).await;
        self.record(rate, &load, before.used_until(reading().await, idle));
        load
    }

    fn record(&mut self, rate: u32, load: &LoadResult, used: CpuSeconds) {
        let (found, statistics) = (&mut self.found, &load.modes[&self.mode]);
        let held = is_sustained(load, self.mode);
        let mut cost = None;
        // A service that does not report its processor time, for once, is left out with its quotes.
        if let (true, Some(services)) = (held, used.services) {
            cost = micros_per_quote(services, statistics.quotes);
            found.used = found.used.plus(used);
            found.quotes += statistics.quotes;
        }
        found.probes.push(CapacityProbe {
            mode: self.mode,
            floor: self.is_floor,
            rate_per_s: rate,
            held,
            latency_us: percentiles(&statistics.latency),
            cpu_us_per_quote: cost.filter(|_| !self.is_floor).map(f64::round),
            steal_share: load.steal.map(|steal| steal.share),
            repeated: false,
        });
        if let Some(failures) = statistics.failures().next() {
            found.last_error = Some(failures.example.clone());
        }
        if let Some(wrong) = statistics
            .failures()
            .find(|failures| failures.wrong_answers)
        {
            found.wrong.get_or_insert_with(|| wrong.example.clone());
        }
    }

    async fn load(&self, rate: u32, length: Duration, stop: &CancellationToken) -> LoadResult {
        let schedule = Schedule::constant(rate, length);
        self.quotes.run(schedule, most_in_flight(rate), stop).await
    }
}

/// Repeats an attempt while it is invalid, `most` times at most. Returns the last, and the number
/// of attempts before it.
async fn repeat_while<T>(
    most: u32,
    mut attempt: impl AsyncFnMut() -> T,
    is_invalid: impl Fn(&T) -> bool,
) -> (T, u32) {
    let (mut last, mut repeated) = (attempt().await, 0);
    while repeated < most && is_invalid(&last) {
        last = attempt().await;
        repeated += 1;
    }
    (last, repeated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn invalid_attempt_is_repeated_within_bounds() {
        let mut made = 0;
        let mut attempt = async || {
            made += 1;
            made
        };
        assert_eq!(repeat_while(2, &mut attempt, |_| false).await, (1, 0));
        assert_eq!(repeat_while(2, &mut attempt, |&nth| nth == 2).await, (3, 1));
        assert_eq!(repeat_while(2, &mut attempt, |_| true).await, (6, 2));
        assert_eq!(repeat_while(0, &mut attempt, |_| true).await, (7, 0));
    }
}
