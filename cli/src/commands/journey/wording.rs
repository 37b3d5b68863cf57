//! Numbers, names and reasons as text.

use chrono::{DateTime, Utc};
use marketplace::{MarketTime, new_york};
use price_optimization::explain::{CostliestHop, FeedName, Stage};
use surge_proto::DataflowMode;

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

/// The costliest hop in a sentence, with the reason for its length.
pub(super) fn cost(mode: DataflowMode, hop: &CostliestHop) -> String {
    format!(
        "{} ms of it, {:.0} %, lie between {} and {}: {}",
        millis(hop.hop_ms),
        hop.share_of_age * 100.0,
        stage(hop.from),
        stage(hop.to),
        reason(mode, hop)
    )
}

fn reason(mode: DataflowMode, hop: &CostliestHop) -> &'static str {
    match (mode, hop.to) {
        (DataflowMode::Database, Stage::Published) => "the producer writes a few times a second",
        (DataflowMode::Database, Stage::Received) => "rows wait for the next batch run",
        (DataflowMode::Database, Stage::Written) => "the batch run makes its forecasts",
        (DataflowMode::Database, Stage::Read) => "the rows are used until the next batch run",
        (DataflowMode::Events, Stage::Published) => {
            "the producer first publishes the levels, then a watermark that they are complete"
        }
        (DataflowMode::Events, Stage::Received) => "JetStream delivers",
        (DataflowMode::Events, Stage::Read) => {
            "the last message is used until the next one arrives, a few times a second"
        }
        (DataflowMode::Request, Stage::Received) => "the answer is on its way",
        (DataflowMode::Request, Stage::Priced) => "the quote waits for the other call",
        // No other hop can be long in a mode.
        _ => "the quote is computed",
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
}
