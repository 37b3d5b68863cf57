//! The processor time of quotes: of the services, as each reports it in its metrics, and of the
//! load generator itself.

use std::time::Instant;

use city::{Client, Target};
use rustix::time::{ClockId, clock_gettime};

#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuReading {
    at: Instant,
    used: CpuSeconds,
}

/// Processor time in seconds, or in seconds per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CpuSeconds {
    /// Of the three services together; `None` when a service does not report it.
    pub(crate) services: Option<f64>,
    /// Of this process: the load generator and the city.
    pub(crate) own: f64,
}

impl CpuReading {
    /// Asks the services and the operating system.
    pub(crate) async fn take(client: &Client, target: &Target) -> Self {
        let services = services_seconds(client, target).await;
        let own = clock_gettime(ClockId::ProcessCPUTime);
        Self {
            at: Instant::now(),
            used: CpuSeconds {
                services,
                own: own.tv_sec as f64 + own.tv_nsec as f64 / 1e9,
            },
        }
    }

    /// The use per second from this reading to a later one.
    pub(crate) fn rate_until(self, later: Self) -> CpuSeconds {
        let passed = later.at.duration_since(self.at).as_secs_f64();
        let used = self.used_until(later, CpuSeconds::ZERO);
        CpuSeconds {
            services: used.services.map(|used| used / passed),
            own: used.own / passed,
        }
    }

    /// The use from this reading to a later one, without what is used all the time (`idle`, per
    /// second).
    pub(crate) fn used_until(self, later: Self, idle: CpuSeconds) -> CpuSeconds {
        let passed = later.at.duration_since(self.at).as_secs_f64();
        let services =
            || Some(later.used.services? - self.used.services? - idle.services? * passed);
        CpuSeconds {
            services: services(),
            own: later.used.own - self.used.own - idle.own * passed,
        }
    }
}

impl CpuSeconds {
    pub(crate) const ZERO: Self = Self {
        services: Some(0.0),
        own: 0.0,
    };

    /// The sum, known as far as both are.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            services: self
                .services
                .zip(other.services)
                .map(|(one, two)| one + two),
            own: self.own + other.own,
        }
    }
}

async fn services_seconds(client: &Client, target: &Target) -> Option<f64> {
    let mut seconds = 0.0;
    for (_, base) in target.services() {
        let answer = client.get(&format!("{base}/metrics")).await.ok()?;
        seconds += cpu_seconds_total(std::str::from_utf8(&answer.body).ok()?)?;
    }
    Some(seconds)
}

fn cpu_seconds_total(metrics: &str) -> Option<f64> {
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.starts_with("process_cpu_time_seconds_total"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_is_found_among_other_metrics() {
        let text =
            "# TYPE process_cpu_time_seconds counter\nprocess_cpu_time_seconds_total 1.25\n# EOF\n";
        assert_eq!(cpu_seconds_total(text), Some(1.25));
        assert_eq!(cpu_seconds_total("# EOF\n"), None);
    }
}
