//! What the operating system knows of this process. Linux tells it in `/proc`; elsewhere the metrics that come from there
//! are absent.

use std::{
    fmt, fs,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use rustix::{
    param::page_size,
    time::{ClockId, clock_gettime},
};

/// Tells about this process whenever it is asked.
#[derive(Debug)]
pub(super) struct Process {
    started_at_seconds: f64,
}

impl Process {
    /// To be made when the process starts.
    pub(super) fn starting_now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            started_at_seconds: since_epoch.unwrap_or_default().as_secs_f64(),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut tell =
            |name, help, unit: Option<&Unit>, metric: &dyn EncodeMetric| -> fmt::Result {
                metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
            };
        let cpu = ConstCounter::new(processor_seconds());
        let help = "Processor time of this process, all threads";
        tell("process_cpu_time", help, Some(&Unit::Seconds), &cpu)?;
        let start = ConstGauge::new(self.started_at_seconds);
        let help = "When this process started, Unix time";
        tell("process_start_time", help, Some(&Unit::Seconds), &start)?;
        if let Some(bytes) = resident_bytes() {
            let help = "Resident memory of this process";
            let gauge = ConstGauge::new(bytes);
            tell("process_memory_usage", help, Some(&Unit::Bytes), &gauge)?;
        }
        if let Some(open) = entries("/proc/self/fd") {
            let help = "Open file descriptors of this process";
            let gauge = ConstGauge::new(open);
            tell("process_unix_file_descriptor_count", help, None, &gauge)?;
        }
        if let Some(threads) = entries("/proc/self/task") {
            let help = "Threads of this process";
            tell(
                "process_thread_count",
                help,
                None,
                &ConstGauge::new(threads),
            )?;
        }
        Ok(())
    }
}

fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * page_size() as u64)
}

fn entries(folder: &str) -> Option<u64> {
    Some(fs::read_dir(folder).ok()?.count() as u64)
}
