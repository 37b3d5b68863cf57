//! What quotes cost in processor time: the services, as each tells it in its metrics, and the load generator itself.

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

use city::Client;
use city::Target;

/// Processor time used until one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    at: Instant,
    used: Seconds,
}

/// Processor time in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Seconds {
    /// Of the three services together; none when they do not tell.
    pub(crate) services: Option<f64>,
    /// Of this process: the load generator and the city.
    pub(crate) own: f64,
}

/// Processor seconds a second.
pub(crate) type Rate = Seconds;

impl Reading {
    /// Asks the services and the operating system.
    pub(crate) async fn take(client: &Client, target: &Target) -> Self {
        let services = services_seconds(client, target).await;
        let own = clock_gettime(ClockId::ProcessCPUTime);
        Self {
            at: Instant::now(),
            used: Seconds {
                services,
                own: own.tv_sec as f64 + own.tv_nsec as f64 / 1e9,
            },
        }
    }

    /// How much was used each second from this reading to a later one.
    pub(crate) fn rate_until(self, later: Self) -> Rate {
        self.used_until(later, Rate::NOTHING)
            .over(self.passed(later))
    }

    /// What was used from this reading to a later one, beyond what is used all the time.
    pub(crate) fn used_until(self, later: Self, idle: Rate) -> Seconds {
        let passed = self.passed(later);
        let services = || {
            let used = later.used.services? - self.used.services?;
            Some(used - idle.services? * passed)
        };
        Seconds {
            services: services(),
            own: later.used.own - self.used.own - idle.own * passed,
        }
    }

    fn passed(self, later: Self) -> f64 {
        later.at.duration_since(self.at).as_secs_f64()
    }
}

impl Seconds {
    /// None at all.
    pub(crate) const NOTHING: Self = Self {
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

    fn over(self, seconds: f64) -> Rate {
        Rate {
            services: self.services.map(|used| used / seconds),
            own: self.own / seconds,
        }
    }
}

async fn services_seconds(client: &Client, target: &Target) -> Option<f64> {
    let mut seconds = 0.0;
    for (_, base) in target.services() {
        let answer = client.get(&format!("{base}/metrics")).await.ok()?;
        seconds += processor_seconds(std::str::from_utf8(&answer.body).ok()?)?;
    }
    Some(seconds)
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
