//! Numbers, names and reasons as text.

use chrono::{DateTime, Utc};
use marketplace::{MarketTime, new_york};
use price_optimization::explain::{CostliestHop, FeedName, FeedPath, Journey, Stage, Stop};

/// Milliseconds with three to four digits that matter, such as `0.042`, `7.31` and `2,410.9`.
pub(super) fn millis(millis: f64) -> String {
    // Market time is in whole milliseconds, so a result may seem a little earlier than its cause.
    let millis = millis.max(0.0);
    match millis {
        0.0..1.0 => format!("{millis:.3}"),
        1.0..10.0 => format!("{millis:.2}"),
        _ => grouped(&format!("{millis:.1}")),
    }
}

/// A duration of market time.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        ..60.0 => format!("{seconds:.1} s"),
        ..3_600.0 => format!("{:.1} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3_600.0),
    }
}

/// Cents as dollars.
pub(super) fn dollars(cents: i64) -> String {
    format!(
        "${}.{:02}",
        grouped(&(cents / 100).to_string()),
        cents % 100
    )
}

/// A comma before every third digit of the whole part.
fn grouped(number: &str) -> String {
    let (whole, fraction) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + fraction
}

/// A time of the market as New York's clocks show it.
pub(super) fn market(time: DateTime<Utc>, form: &str) -> String {
    new_york::show(MarketTime::from_millis(time.timestamp_millis()), form)
}

pub(super) const fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Asked => "asked",
        Stage::Observed => "observed",
        Stage::Published => "published",
        Stage::Received => "received",
        Stage::Written => "written",
        Stage::Read => "read",
        Stage::Priced => "priced",
    }
}

pub(super) const fn feed(feed: FeedName) -> &'static str {
    match feed {
        FeedName::Supply => "supply",
        FeedName::Demand => "demand",
    }
}

/// The costliest hop in a sentence, with what happened during it. Only what was measured: nobody
/// knows here how long a hop usually takes.
pub(super) fn cost(journey: &Journey, hop: &CostliestHop) -> String {
    format!(
        "{} ms of it, {:.0} %, lie between {} and {}: {}",
        millis(hop.hop_ms),
        hop.share_of_age * 100.0,
        stage(hop.from),
        stage(hop.to),
        reason(&journey.feeds, hop)
    )
}

fn reason(paths: &[FeedPath], hop: &CostliestHop) -> String {
    let mut its_path = paths.iter().filter(|path| path.feed == hop.feed);
    let Some(path) = its_path.next() else {
        return String::new();
    };
    let producer = &path.producer;
    let stop = |stage| path.stops.iter().find(|stop| stop.stage == stage);
    let from = stop(hop.from);
    let was_sent = from.is_some_and(|from| from.message.is_some());
    let was_written = stop(Stage::Written).is_some();
    match (hop.from, hop.to) {
        (_, Stage::Published) if was_written => format!("then {producer} committed its rows"),
        (_, Stage::Published) => format!(
            "{producer} first publishes the levels, then a watermark that they are complete"
        ),
        (Stage::Published, Stage::Received) if was_sent => {
            "the message was on its way through JetStream".to_owned()
        }
        (_, Stage::Received) if was_written => {
            format!("{producer} had committed nothing newer when the batch run read its rows")
        }
        (Stage::Observed, Stage::Received) => answered(producer, from, hop),
        (_, Stage::Written) => "the batch run computed its forecasts and wrote its rows".to_owned(),
        (Stage::Written, Stage::Read) => {
            "no later batch run had replaced the rows when the quote read them".to_owned()
        }
        (_, Stage::Read) => format!("no newer message of {producer} had come"),
        (Stage::Received, Stage::Priced) => {
            let last_answer = paths.iter().flat_map(|path| &path.stops);
            let last_answer = last_answer.filter(|stop| stop.stage == Stage::Received);
            let last_answer = last_answer.map(|stop| stop.at).max();
            let waited = last_answer.zip(from).map(|(last, own)| last - own.at);
            let waited_ms = waited.map_or(0.0, |waited| waited.as_seconds_f64() * 1_000.0);
            match waited_ms > hop.hop_ms / 2.0 {
                true => "the quote waited for its other call".to_owned(),
                false => "the answer was used that much later".to_owned(),
            }
        }
        _ => "the quote was computed".to_owned(),
    }
}

/// Why an answer is older than the call: a replica knows what the others wrote only up to their
/// last reports.
fn answered(producer: &str, observed: Option<&Stop>, hop: &CostliestHop) -> String {
    match observed.and_then(|observed| observed.hop_ms) {
        Some(before) if before < -1.0 => format!(
            "{producer} answered within {} ms, with levels as of the last reports that its \
             replicas made to each other",
            millis(hop.hop_ms + before)
        ),
        _ => "the answer was on its way".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_show_digits_that_matter() {
        let shown = [-0.4, 0.0421, 7.314, 148.23, 2_410.94, 86_400_000.0].map(millis);
        let expected = ["0.000", "0.042", "7.31", "148.2", "2,410.9", "86,400,000.0"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn duration_is_in_fitting_unit() {
        assert_eq!(
            [8.04, 204.0, 7_200.0].map(duration),
            ["8.0 s", "3.4 min", "2.0 h"]
        );
    }

    #[test]
    fn cents_are_dollars() {
        assert_eq!([805, 123_456].map(dollars), ["$8.05", "$1,234.56"]);
    }

    fn stop(stage: Stage, hop_ms: Option<f64>) -> Stop {
        Stop {
            stage,
            at: DateTime::UNIX_EPOCH,
            market_time: DateTime::UNIX_EPOCH,
            by: String::new(),
            how: String::new(),
            hop_ms,
            age_ms: None,
            message: None,
            run: None,
            trace: None,
        }
    }

    fn reason_of(stops: Vec<Stop>, [from, to]: [Stage; 2], hop_ms: f64) -> String {
        let path = FeedPath {
            feed: FeedName::Supply,
            producer: "driver-management".to_owned(),
            age_ms: None,
            is_older: true,
            stops,
        };
        let hop = CostliestHop {
            feed: FeedName::Supply,
            from,
            to,
            hop_ms,
            share_of_age: 1.0,
        };
        reason(&[path], &hop)
    }

    #[test]
    fn silence_of_producer_is_not_batch_waiting() {
        let stops = vec![stop(Stage::Published, None), stop(Stage::Written, None)];
        let said = reason_of(stops, [Stage::Published, Stage::Received], 30_000.0);
        assert!(
            said.starts_with("driver-management had committed nothing newer"),
            "{said}"
        );
    }

    #[test]
    fn replicas_reports_are_not_the_wire() {
        let answered = |before_ms| {
            let stops = vec![stop(Stage::Observed, Some(before_ms))];
            reason_of(stops, [Stage::Observed, Stage::Received], 484.0)
        };
        assert!(answered(-483.5).contains("within 0.500 ms, with levels as of the last reports"));
        assert_eq!(answered(0.2), "the answer was on its way");
    }
}
