//! When a rate holds.

use std::time::Duration;

use surge_proto::DataflowMode;

use crate::measure::Measured;

/// The latency that 99 of 100 quotes must keep.
pub(crate) const LIMIT: Duration = Duration::from_millis(50);

/// By how much the trend of latency may rise from the begin of a probe to its end. A queue that grows shows in it long before
/// it is [`LIMIT`] long: in 0.4 s, that alone would let pass what is an eighth too much.
const MOST_GROWTH: Duration = Duration::from_millis(20);

/// The bound on quotes under way in a probe: when a quarter of a second of arrivals is unanswered, more than one in a
/// hundred has long missed the limit, so it never decides. It only spares us the rest of a queue that grows.
pub(crate) fn most_in_flight(rate: u32) -> u32 {
    (rate / 4).max(256)
}

/// Whether a rate holds: it is answered [in time](is_in_time), and could be for ever, for no queue grows.
pub(crate) fn is_sustained(measured: &Measured, mode: DataflowMode) -> bool {
    let length = measured.paced_for().unwrap_or_default();
    let growth = measured.tally(mode).trend.slope() * length.as_secs_f64();
    is_in_time(measured, mode) && growth <= MOST_GROWTH.as_secs_f64()
}

/// Whether every quote was answered, rightly, and 99 of 100 within [`LIMIT`] of the moment they were meant to leave.
pub(crate) fn is_in_time(measured: &Measured, mode: DataflowMode) -> bool {
    let tally = measured.tally(mode);
    let p99 = Duration::from_micros(tally.latency.value_at_quantile(0.99));
    let all_sent = measured
        .delivery
        .as_ref()
        .is_some_and(|delivery| delivery.dropped == 0 && delivery.unanswered == 0);
    all_sent && tally.errors() == 0 && tally.quotes > 0 && p99 <= LIMIT
}

/// Whether a rate failed while the hypervisor had the processors.
pub(super) fn was_taken_away(measured: &Measured, mode: DataflowMode) -> bool {
    !is_sustained(measured, mode) && measured.stolen.is_some_and(|stolen| stolen.is_spoiling())
}

#[cfg(test)]
mod tests {
    use marketplace::{Multiplier, Zone};

    use super::*;
    use crate::stolen::Stolen;
    use engine::stand_in::pickup;
    use engine::{CheckedQuote, SendReport, histogram};

    const MODE: DataflowMode = DataflowMode::Events;

    /// A probe of 0.4 s with a quote every millisecond, whose latency in milliseconds is a matter of when it is due.
    fn probe(latency_ms: impl Fn(u64) -> u64) -> Measured {
        let mut measured = Measured::nothing(&[MODE]);
        let length = Duration::from_millis(400);
        measured.delivery = Some(SendReport {
            sent: 400,
            dropped: 0,
            unanswered: 0,
            paced_for: length,
            lasted: length,
            lateness: histogram(),
        });
        let quoted = CheckedQuote {
            zone: Zone::at(pickup()),
            multiplier: Multiplier::ONE,
            data_age: None,
            degraded: false,
        };
        for ms in 0..400 {
            let (due, latency) = (ms, latency_ms(ms));
            let [due, latency] = [due, latency].map(Duration::from_millis);
            let tally = measured.tallies.get_mut(&MODE);
            tally.unwrap().add(due, latency, Ok(quoted), None);
        }
        measured
    }

    #[test]
    fn a_queue_that_grows_does_not_hold_although_it_is_short_yet() {
        let a_tenth_too_much = probe(|ms| 1 + ms / 10);
        assert!(is_in_time(&a_tenth_too_much, MODE));
        assert!(!is_sustained(&a_tenth_too_much, MODE));
        assert!(is_sustained(&probe(|ms| 1 + ms / 40), MODE));
    }

    #[test]
    fn what_is_slow_or_stands_still_for_a_moment_holds() {
        assert!(is_sustained(&probe(|_| 49), MODE));
        assert!(!is_sustained(&probe(|_| 51), MODE));
        // 40 ms in the middle, and what they held back.
        let stall = |ms| match ms {
            200..240 => 242 - ms,
            _ => 2,
        };
        assert!(is_sustained(&probe(stall), MODE));
    }

    #[test]
    fn only_what_failed_while_much_was_taken_was_disturbed() {
        let failed = Measured::nothing(&[MODE]);
        assert!(!was_taken_away(&failed, MODE));
        let taken = |stolen_share| Measured {
            stolen: Some(Stolen {
                stolen_share,
                worst_second_share: stolen_share,
            }),
            ..failed.clone()
        };
        assert!(!was_taken_away(&taken(0.09), MODE));
        assert!(was_taken_away(&taken(0.11), MODE));
    }
}
