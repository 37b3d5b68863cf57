//! A deadline for what is mostly ready at once.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Poll, ready},
    time::Duration,
};

use tokio::time::sleep;

/// The deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed;

/// What comes of `future`, if it comes within `limit`. Unlike tokio's `timeout` it makes no timer, and looks at no clock, before
/// it has to wait: a quote passes three deadlines, and in mode `events` it waits for nothing.
///
/// # Errors
/// [`Passed`] when it does not come in time.
pub async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, Passed> {
    let mut future = pin!(future);
    let mut timer = pin!(None);
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        if timer.is_none() {
            timer.set(Some(sleep(limit)));
        }
        if let Some(timer) = timer.as_mut().as_pin_mut() {
            ready!(timer.poll(context));
        }
        Poll::Ready(Err(Passed))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_time_comes_through() {
        assert_eq!(within(Duration::ZERO, ready(7)).await, Ok(7));
        let begun = Instant::now();
        assert_eq!(within(LIMIT, sleep(LIMIT / 2)).await, Ok(()));
        assert!(begun.elapsed() < LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_is_given_up() {
        let begun = Instant::now();
        assert_eq!(within(LIMIT, pending::<()>()).await, Err(Passed));
        assert!((LIMIT..LIMIT * 2).contains(&begun.elapsed()));
        assert_eq!(within(Duration::MAX, sleep(LIMIT)).await, Ok(()));
    }
}
