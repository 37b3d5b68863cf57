//! What the operating system knows about this process. Memory, files and threads come from `/proc`,
//! which only Linux has; elsewhere these three metrics are absent.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::registry::Registry;
use rustix::time::{ClockId, clock_gettime};

#[cfg(target_os = "linux")]
use super::scrape::Scrape;
use super::scrape::on_scrape;

/// Registers the metrics of this process, which starts now.
pub(super) fn register(registry: &mut Registry) {
    let started = SystemTime::now().duration_since(UNIX_EPOCH);
    let started = started.unwrap_or_default().as_secs_f64();
    on_scrape(registry, move |scrape| {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        let help = "Processor time of this process, all threads";
        scrape.counter("process_cpu_time_seconds", help, cpu);
        let help = "When this process started, Unix time";
        scrape.gauge("process_start_time_seconds", help, started);
        #[cfg(target_os = "linux")]
        write_proc(scrape);
    });
}

#[cfg(target_os = "linux")]
fn write_proc(scrape: &mut Scrape<'_>) {
    let Ok(this) = procfs::process::Process::myself() else {
        return;
    };
    if let Ok(memory) = this.statm() {
        let help = "Resident memory of this process";
        let bytes = memory.resident * procfs::page_size();
        scrape.gauge("process_memory_usage_bytes", help, bytes);
    }
    if let Ok(open) = this.fd_count() {
        let help = "Open file descriptors of this process";
        scrape.gauge("process_unix_file_descriptor_count", help, open);
    }
    if let Ok(stat) = this.stat() {
        let help = "Threads of this process";
        scrape.gauge("process_thread_count", help, stat.num_threads);
    }
}
