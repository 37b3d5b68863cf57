//! Whether the oracle can be trusted: the city knows the right multiplier only while it is the only
//! city, and only a market in which prices move can show that old data is wrong.

use std::collections::BTreeMap;

use surge_proto::DataflowMode;

use crate::measure::Run;
use crate::measure::mode_statistics::ModeStatistics;
use crate::report::{CompareReport, ErrorFigures};
use crate::wording::validity;

/// `request` reads the market live, so it must agree with the oracle. Rounding to tenths turns a
/// difference of milliseconds into 0.1 now and then, hence not zero.
const MOST_REQUEST_ERROR: f64 = 0.02;

/// Of a busy evening, surge is right for a third of the quotes.
const LEAST_SURGING: f64 = 0.05;

/// Why the oracle of a run cannot be trusted, a clause each; empty when it can.
pub(super) fn distrust(run: &Run) -> Vec<String> {
    [run.city.warnings.clone(), distrust_of(&run.load.modes)].concat()
}

fn distrust_of(modes: &BTreeMap<DataflowMode, ModeStatistics>) -> Vec<String> {
    let request = modes.get(&DataflowMode::Request);
    let error = request.and_then(|request| request.deviation.error().mean_abs);
    let disagrees = error.filter(|error| *error > MOST_REQUEST_ERROR);
    let counts = modes
        .values()
        .map(|mode| mode.deviation.compared_and_surging());
    let (compared, surging) = counts.fold((0, 0), |sum, mode| (sum.0 + mode.0, sum.1 + mode.1));
    let surging = (compared > 0).then(|| surging as f64 / compared as f64);
    let quiet = surging.filter(|share| *share < LEAST_SURGING);
    let quiet = quiet.map(validity::quiet_market);
    // An oracle that is wrong cannot say how calm the market was.
    let reason = disagrees.map(validity::request_disagrees).or(quiet);
    reason.into_iter().collect()
}

/// The report without multiplier errors, where the oracle cannot be trusted: a figure that nobody
/// should believe is not printed, and neither is a sentence or a chart that is derived from it.
pub(super) fn without_untrusted_errors(mut report: CompareReport) -> CompareReport {
    if report.untrusted_oracle.is_empty() {
        return report;
    }
    for mode in report.modes.values_mut() {
        mode.multiplier_error = ErrorFigures::default();
    }
    for interval in report.series.timeline.values_mut().flatten() {
        interval.multiplier_error_mean_abs = None;
    }
    for zone in &mut report.series.zones {
        zone.oracle.fill(None);
    }
    for moment in &mut report.series.map {
        moment.oracle.clear();
    }
    report
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engine::CheckedQuote;
    use engine::stand_in::pickup;
    use marketplace::{Multiplier, Zone};

    use super::*;
    use crate::report::example_with_series;

    /// A hundred quotes of `request`, of which `wrong` are off by 0.5 and `surging` should have had
    /// surge.
    fn request(wrong: u16, surging: u16) -> BTreeMap<DataflowMode, ModeStatistics> {
        let mut statistics = ModeStatistics::precise();
        for number in 0..100 {
            let oracle = if number < surging { 15 } else { 10 };
            let quoted = if number < wrong { oracle + 5 } else { oracle };
            let quote = CheckedQuote {
                zone: Zone::at(pickup()),
                multiplier: Multiplier::from_tenths(quoted).unwrap(),
                data_age: None,
                degraded: false,
            };
            let oracle = Multiplier::from_tenths(oracle).ok();
            statistics.add(Duration::ZERO, Duration::ZERO, &Ok(quote), oracle);
        }
        BTreeMap::from([(DataflowMode::Request, statistics)])
    }

    #[test]
    fn agreement_in_busy_market_is_trusted() {
        assert_eq!(distrust_of(&request(0, 30)), [""; 0]);
        assert_eq!(distrust_of(&request(4, 30)), [""; 0], "0.020 is allowed");
    }

    #[test]
    fn live_mode_that_disagrees_is_not_trusted() {
        let reasons = distrust_of(&request(10, 30));
        assert!(reasons[0].contains("wrong by 0.050"), "{reasons:?}");
    }

    #[test]
    fn calm_market_is_not_trusted() {
        let reasons = distrust_of(&request(0, 3));
        assert!(reasons[0].contains("only 3 % of the quotes"), "{reasons:?}");
    }

    #[test]
    fn untrusted_report_has_no_multiplier_error() {
        let trusted = without_untrusted_errors(example_with_series());
        assert!(
            trusted.modes[&DataflowMode::Events]
                .multiplier_error
                .mean_abs
                .is_some()
        );
        let mut report = example_with_series();
        report.untrusted_oracle = vec!["another city is running".to_owned()];
        let report = without_untrusted_errors(report);
        let written = serde_json::to_value(&report).unwrap();
        for mode in ["database", "request", "events"] {
            assert!(written["modes"][mode]["multiplier_error"]["mean_abs"].is_null());
            assert!(written["series"]["timeline"][mode][0]["multiplier_error_mean_abs"].is_null());
        }
        assert!(written["series"]["zones"][0]["oracle"][0].is_null());
        assert_eq!(written["series"]["map"][0]["oracle"], serde_json::json!({}));
    }
}
