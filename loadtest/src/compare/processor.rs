//! What quotes cost the services: their processor time, as each tells it in its metrics.

use std::time::Instant;

use crate::client::Client;
use crate::target::Target;

/// The processor time of all services at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    at: Instant,
    seconds: f64,
}

impl Reading {
    /// Asks the services; `None` when one does not tell.
    pub(crate) async fn take(client: &Client, target: &Target) -> Option<Self> {
        let mut seconds = 0.0;
        for (_, base) in target.services() {
            let answer = client.get(&format!("{base}/metrics")).await.ok()?;
            seconds += processor_seconds(std::str::from_utf8(&answer.body).ok()?)?;
        }
        Some(Self {
            at: Instant::now(),
            seconds,
        })
    }

    /// From this reading to a later one: processor seconds, and seconds.
    pub(crate) fn until(self, later: Self) -> (f64, f64) {
        let passed = later.at.duration_since(self.at).as_secs_f64();
        (later.seconds - self.seconds, passed)
    }
}

fn processor_seconds(metrics: &str) -> Option<f64> {
    let line = metrics
        .lines()
        .find(|line| line.starts_with("process_cpu_time_seconds_total"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found_among_other_metrics() {
        let text =
            "# TYPE process_cpu_time_seconds counter\nprocess_cpu_time_seconds_total 1.25\n# EOF\n";
        assert_eq!(processor_seconds(text), Some(1.25));
        assert_eq!(processor_seconds("# EOF\n"), None);
    }
}
