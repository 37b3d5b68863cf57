//! A timer that wakes to some microseconds.
//!
//! Tokio's timer has a resolution of one millisecond, and the figures would show that as latency of
//! the service. A timerfd of Linux is precise, and a task waits for it as for a socket.

use std::time::{Duration, Instant};

/// Waits for one moment at a time.
#[derive(Debug)]
pub(super) struct PreciseTimer(Option<precise::Timer>);

impl PreciseTimer {
    /// Without a timerfd the waits are as coarse as the runtime's, and the lateness of the run
    /// shows it.
    pub(super) fn new() -> Self {
        Self(precise::Timer::new())
    }

    /// Waits until `at`; returns at once if that has passed.
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
            // SAFETY: the `AsyncFd` owns the valid descriptor, and never replaces or closes it
            // before its own end.
            unsafe { AsyncFd::register(timer) }.ok().map(Self)
        }

        /// Waits about this long. May return early, for an expiry that an earlier wait left unread.
        pub(super) async fn wait_once(&self, after: Duration) {
            let once = Itimerspec {
                it_interval: timespec(Duration::ZERO),
                it_value: timespec(after),
            };
            let armed = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once);
            match armed {
                // Nobody reads the number of expiries: setting the timer again sets it to zero.
                Ok(_) => self.expired().await,
                Err(_) => tokio::time::sleep(after).await,
            }
        }

        async fn expired(&self) {
            if let Ok(mut ready) = self.0.readable().await {
                ready.clear_ready();
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

    /// The median lateness of a hundred waits.
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

    /// Half of the waits, and one try of ten, because a busy machine may be late itself.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn half_the_waits_are_precise() {
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
    async fn abandoned_wait_does_not_shorten_the_next() {
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
