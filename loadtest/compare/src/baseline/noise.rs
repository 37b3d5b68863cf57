//! How far a figure of one run wanders by itself.
//!
//! Neighbouring seconds resemble each other (a batch job, a hot zone), so a run is cut into blocks of seconds and the
//! blocks are compared: the method of batch means (Law, Simulation Modeling and Analysis, section 9.5.3).

use surge_proto::DataflowMode;

use crate::report::Report;
use crate::series::Interval;

/// Blocks of one run. Fewer than this many intervals say nothing about noise.
const BLOCKS: usize = 6;

/// The half-width of a 95 % interval in standard errors: Student's t with five degrees of freedom.
const T: f64 = 2.57;

/// Half the width of a 95 % interval around a figure that was taken in every interval of the measurement.
pub(super) fn of_course(
    report: &Report,
    mode: DataflowMode,
    figure: fn(&Interval) -> Option<f64>,
) -> Option<f64> {
    let intervals = report.series.timeline.get(&mode)?;
    let block = intervals.len() / BLOCKS;
    if block == 0 {
        return None;
    }
    let means = intervals.chunks_exact(block).take(BLOCKS).map(|block| {
        let figures: Vec<f64> = block.iter().filter_map(figure).collect();
        mean(&figures)
    });
    half_width(&means.collect::<Option<Vec<f64>>>()?)
}

/// Half the width of a 95 % interval around the processor time of a quote, from the probes that held.
pub(super) fn of_processor_time(report: &Report, mode: DataflowMode) -> Option<f64> {
    let probes = report.series.probes.iter();
    let costs = probes.filter(|probe| probe.mode == mode && !probe.floor);
    let costs: Vec<f64> = costs.filter_map(|probe| probe.cpu_us_per_quote).collect();
    if costs.len() < BLOCKS {
        return None;
    }
    half_width(&costs)
}

/// Half the range of the rounds, together with the step from their median to the next rate that failed: a search does not look
/// between the two. None of a single round. A floor is searched under the name of its mode.
pub(super) fn of_capacity(
    report: &Report,
    (mode, floor): (DataflowMode, bool),
    (median, range): (Option<f64>, Option<[u32; 2]>),
) -> Option<f64> {
    let (median, [low, high]) = (median?, range?);
    let probes = report.series.probes.iter();
    let failed = probes.filter(|probe| probe.mode == mode && probe.floor == floor && !probe.held);
    let steps = failed.map(|probe| f64::from(probe.rate_per_s) - median);
    let above = steps.filter(|step| *step > 0.0).min_by(f64::total_cmp);
    Some((f64::from(high - low) / 2.0).hypot(above.unwrap_or(0.0)))
}

/// The noise of a quotient, from what is relative in that of its parts.
pub(super) fn of_share(
    share: Option<f64>,
    (above, noise_above): (Option<f64>, Option<f64>),
    (below, noise_below): (Option<f64>, Option<f64>),
) -> Option<f64> {
    Some(share? * (noise_above? / above?).hypot(noise_below? / below?))
}

fn half_width(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let (count, degrees) = (values.len() as f64, values.len() as f64 - 1.0);
    (degrees > 0.0).then(|| T * (squares / degrees / count).sqrt())
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;
    use crate::series::{self, Probe};

    fn report(latencies: &[u64]) -> Report {
        let mut report = example();
        let interval = |&latency| Interval {
            latency_us_p50: Some(latency),
            ..Interval::default()
        };
        let course = latencies.iter().map(interval).collect();
        report.series.timeline.insert(DataflowMode::Events, course);
        report
    }

    fn noise(latencies: &[u64]) -> Option<f64> {
        let p50 = |interval: &Interval| Some(interval.latency_us_p50? as f64);
        of_course(&report(latencies), DataflowMode::Events, p50)
    }

    #[test]
    fn a_steady_course_has_no_noise_and_a_restless_one_has() {
        assert_eq!(noise(&[300; 12]), Some(0.0));
        // Block means 1 to 6: standard deviation 1.871, by the root of six 0.764, times 2.57.
        let restless = noise(&[0, 2, 1, 3, 2, 4, 3, 5, 4, 6, 5, 7]).unwrap();
        assert!((restless - 1.963).abs() < 0.001, "{restless}");
    }

    #[test]
    fn too_short_a_course_does_not_tell() {
        assert_eq!(noise(&[300; 5]), None);
        let single = (Some(1_000.0), None);
        assert_eq!(
            of_capacity(&example(), (DataflowMode::Events, false), single),
            None
        );
    }

    #[test]
    fn rounds_that_agree_are_no_surer_than_the_search_is_fine() {
        let mut report = example();
        let probe = |rate_per_s| Probe {
            mode: DataflowMode::Events,
            floor: false,
            rate_per_s,
            held: false,
            ..series::example().probes[0]
        };
        report.series.probes = [900, 1_120, 1_300].map(probe).into();
        let rounds = (Some(1_000.0), Some([1_000, 1_000]));
        let noise = of_capacity(&report, (DataflowMode::Events, false), rounds);
        assert_eq!(noise, Some(120.0));
    }
}
