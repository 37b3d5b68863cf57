//! The latency curve of a mode: how long each further nine of certainty takes.

use hdrhistogram::Histogram;

use super::CurvePoint;

/// Points for each nine: from half to nine in ten, from there to 99 in a hundred, and so on.
const STEPS_PER_NINE: u32 = 20;

/// The curve ends at 99.9; more nines would rest on a handful of quotes.
const NINES: u32 = 3;

/// The points of a curve, evenly spaced in nines, and the slowest quote; none without quotes.
pub(super) fn of(latency: &Histogram<u64>) -> Vec<CurvePoint> {
    if latency.is_empty() {
        return Vec::new();
    }
    let point = |quantile: f64| CurvePoint {
        percentile: quantile * 100.0,
        latency_us: latency.value_at_quantile(quantile),
    };
    (0..=STEPS_PER_NINE * NINES)
        .map(|step| quantile_at(f64::from(step) / f64::from(STEPS_PER_NINE)))
        .chain([1.0])
        .map(point)
        .collect()
}

/// One nine is 0.9, two are 0.99: rounded, because a hair above 0.99 would ask for one quote more.
fn quantile_at(nines: f64) -> f64 {
    let quantile = 1.0 - 0.1_f64.powf(nines);
    (quantile * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::histogram;

    #[test]
    fn a_curve_climbs_from_the_fastest_quote_to_the_slowest() {
        let mut latency = histogram();
        for micros in 1..=1_000 {
            latency.record(micros).unwrap();
        }
        let curve = of(&latency);
        assert_eq!(curve.len(), 62);
        assert!(curve.is_sorted_by_key(|point| point.latency_us));
        let at = |percentile: f64| {
            let near = |point: &&CurvePoint| (point.percentile - percentile).abs() < 1e-9;
            curve.iter().find(near).unwrap().latency_us
        };
        assert_eq!((at(90.0), at(99.0), at(99.9)), (900, 990, 999));
        assert_eq!(curve.last().unwrap().latency_us, 1_000);
    }

    #[test]
    fn what_was_not_answered_has_no_curve() {
        assert_eq!(of(&histogram()), []);
    }
}
