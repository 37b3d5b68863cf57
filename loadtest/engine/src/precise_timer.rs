//! Wakes at an instant, to some microseconds.
//!
//! The timers of an async runtime tick once a millisecond, and that tick would be counted as latency of the service. A
//! timer of the operating system that can be waited for like a socket is exact, and costs no thread.

use std::time::{Duration, Instant};

/// A wait at a time.
#[derive(Debug)]
pub(super) struct PreciseTimer(Option<precise::Timer>);

impl PreciseTimer {
    /// Where the system has no exact timer to give, waits are as coarse as the runtime's, and the lateness of the run
    /// shows it.
    pub(super) fn new() -> Self {
        Self(precise::Timer::new())
    }

    /// Waits until `at`; returns at once when that has passed.
    pub(super) async fn until(&self, at: Instant) {
        loop {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            match &self.0 {
                Some(timer) => timer.wait_once(left).await,
                None => tokio::time::sleep(left).await,
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod precise {
    use std::os::fd::OwnedFd;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;

    use super::Duration;

    /// timerfd_create(2).
    #[derive(Debug)]
    pub(super) struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        #[expect(
            unsafe_code,
            reason = "tokio has no safe way to wait for a timer's descriptor"
        )]
        pub(super) fn new() -> Option<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags).ok()?;
            // SAFETY: the descriptor is valid, owned by the value that is given away, and never replaced or closed
            // before it.
            unsafe { AsyncFd::register(timer) }.ok().map(Self)
        }

        /// Waits about this long. May return early: an old ring that nobody heard is heard now.
        pub(super) async fn wait_once(&self, after: Duration) {
            let once = Itimerspec {
                it_interval: timespec(Duration::ZERO),
                it_value: timespec(after),
            };
            let armed = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once);
            match armed {
                // The number of rings is not read: arming the timer again sets it to zero.
                Ok(_) => self.heard().await,
                Err(_) => tokio::time::sleep(after).await,
            }
        }

        async fn heard(&self) {
            if let Ok(mut ring) = self.0.readable().await {
                ring.clear_ready();
            }
        }
    }

    fn timespec(duration: Duration) -> Timespec {
        Timespec {
            tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: duration.subsec_nanos().into(),
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod precise {
    use super::Duration;

    /// There is none.
    #[derive(Debug)]
    pub(super) enum Timer {}

    impl Timer {
        pub(super) fn new() -> Option<Self> {
            None
        }

        pub(super) async fn wait_once(&self, _after: Duration) {
            match *self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How late half of a hundred waits are at least.
    #[cfg(target_os = "linux")]
    async fn median_lateness(timer: &PreciseTimer) -> Duration {
        let mut late: Vec<Duration> = Vec::new();
        for micros in (100..20_000).step_by(199) {
            let at = Instant::now() + Duration::from_micros(micros);
            timer.until(at).await;
            late.push(
                Instant::now()
                    .checked_duration_since(at)
                    .expect("it never wakes early"),
            );
        }
        late.sort_unstable();
        late[late.len() / 2]
    }

    /// Half of them, and in one of ten tries, because a busy machine may be late itself.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn half_of_the_waits_end_within_half_a_millisecond() {
        let timer = PreciseTimer::new();
        let mut medians = Vec::new();
        while medians.len() < 10 {
            let median = median_lateness(&timer).await;
            if median < Duration::from_micros(500) {
                return;
            }
            medians.push(median);
        }
        panic!("{medians:?}");
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_does_not_cut_the_next_one_short() {
        let timer = PreciseTimer::new();
        for _ in 0..50 {
            let given_up = timer.until(Instant::now() + Duration::from_millis(2));
            let _ = tokio::time::timeout(Duration::from_millis(1), given_up).await;
            let at = Instant::now() + Duration::from_millis(3);
            timer.until(at).await;
            assert!(Instant::now() >= at);
        }
    }
}
