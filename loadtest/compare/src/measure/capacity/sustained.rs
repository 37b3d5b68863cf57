//! When a rate is sustained: every quote is answered in time, and no queue grows.

use std::time::Duration;

use surge_proto::DataflowMode;

use crate::measure::round_robin::LoadResult;
use crate::report::LATENCY_LIMIT;

/// By how much the trend of latency may rise from the beginning of a probe to its end. A growing
/// queue shows in it long before the queue is [`LATENCY_LIMIT`] long: in 0.4 s, the limit alone
/// would pass a rate that is an eighth too high.
const MOST_GROWTH: Duration = Duration::from_millis(20);

/// The bound on quotes under way in a probe: when a quarter of a second of arrivals is unanswered,
/// more than one in a hundred has long missed the limit. So it never decides; it only spares us the
/// rest of a growing queue.
pub(crate) fn most_in_flight(rate: u32) -> u32 {
    (rate / 4).max(256)
}

/// Whether a mode sustained a load: its answers were [in time](is_in_time), and could be for ever,
/// for no queue grew.
pub(crate) fn is_sustained(load: &LoadResult, mode: DataflowMode) -> bool {
    let growth = load.modes[&mode].trend.slope() * load.paced_for().as_secs_f64();
    is_in_time(load, mode) && growth <= MOST_GROWTH.as_secs_f64()
}

/// Whether every quote was answered, rightly, and 99 of 100 within [`LATENCY_LIMIT`] of the moment
/// they were meant to leave.
pub(crate) fn is_in_time(load: &LoadResult, mode: DataflowMode) -> bool {
    let statistics = &load.modes[&mode];
    let p99 = Duration::from_micros(statistics.latency.value_at_quantile(0.99));
    let sent = load.sent.as_ref();
    let all_sent = sent.is_some_and(|sent| sent.dropped == 0 && sent.unanswered == 0);
    all_sent && statistics.errors() == 0 && statistics.quotes > 0 && p99 <= LATENCY_LIMIT
}

/// Whether a probe failed under so much CPU steal that it says nothing about the service.
pub(super) fn is_invalid_sample(load: &LoadResult, mode: DataflowMode) -> bool {
    !is_sustained(load, mode) && load.steal.is_some_and(|steal| steal.invalidates_failure())
}

#[cfg(test)]
mod tests {
    use engine::stand_in::pickup;
    use engine::{CheckedQuote, SendReport, histogram};
    use marketplace::{Multiplier, Zone};

    use super::*;
    use crate::report::CpuSteal;

    const MODE: DataflowMode = DataflowMode::Events;

    /// A probe of 0.4 s with a quote every millisecond, whose latency in milliseconds depends on
    /// when it is due.
    fn probe(latency_ms: impl Fn(u64) -> u64) -> LoadResult {
        let mut load = LoadResult::nothing(&[MODE]);
        let length = Duration::from_millis(400);
        load.sent = Some(SendReport {
            sent: 400,
            dropped: 0,
            unanswered: 0,
            paced_for: length,
            lasted: length,
            lateness: histogram(),
        });
        let quote = CheckedQuote {
            zone: Zone::at(pickup()),
            multiplier: Multiplier::ONE,
            data_age: None,
            degraded: false,
        };
        let statistics = load.modes.get_mut(&MODE).unwrap();
        for ms in 0..400 {
            let [due, latency] = [ms, latency_ms(ms)].map(Duration::from_millis);
            statistics.add(due, latency, &Ok(quote), None);
        }
        load
    }

    #[test]
    fn growing_queue_is_not_sustained() {
        let a_tenth_too_much = probe(|ms| 1 + ms / 10);
        assert!(is_in_time(&a_tenth_too_much, MODE));
        assert!(!is_sustained(&a_tenth_too_much, MODE));
        assert!(is_sustained(&probe(|ms| 1 + ms / 40), MODE));
    }

    #[test]
    fn slow_or_briefly_stalled_service_sustains() {
        assert!(is_sustained(&probe(|_| 49), MODE));
        assert!(!is_sustained(&probe(|_| 51), MODE));
        // 40 ms in the middle, and the quotes that they held back.
        let stall = |ms| match ms {
            200..240 => 242 - ms,
            _ => 2,
        };
        assert!(is_sustained(&probe(stall), MODE));
    }

    #[test]
    fn failure_under_steal_is_invalid_sample() {
        let failed = LoadResult::nothing(&[MODE]);
        assert!(!is_invalid_sample(&failed, MODE));
        let under_steal = |share| LoadResult {
            steal: Some(CpuSteal {
                share,
                worst_second_share: share,
            }),
            ..failed.clone()
        };
        assert!(!is_invalid_sample(&under_steal(0.09), MODE));
        assert!(is_invalid_sample(&under_steal(0.11), MODE));
    }
}
