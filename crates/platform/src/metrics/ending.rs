//! Counting work when it ends, also where its caller gives up.
//!
//! A caller that hangs up has its request *dropped*: the future stops at its `.await`, and no line
//! behind that runs. Work that is counted there is missing from the figures exactly when it took
//! too long for somebody. So the count belongs to the end of the future, whichever end it is:
//!
//! ```text
//!  request ──▶ .await ──▶ output ──▶ report(Some(output))
//!                 └─ dropped ──────▶ report(None)
//! ```

use std::time::Duration;

use futures::FutureExt;
use scopeguard::{ScopeGuard, guard};
use tokio::time::Instant;

/// Runs `work` and calls `report` once, with how long it took: with the output of `work`, or with
/// `None` if the future is dropped before it has one.
///
/// Not an async function: that would hold `work` twice, as its argument and as what it awaits.
pub fn report_end<F: Future>(
    work: F,
    report: impl FnOnce(Option<&F::Output>, Duration),
) -> impl Future<Output = F::Output> {
    let started = Instant::now();
    let report = guard(report, move |report| report(None, started.elapsed()));
    work.map(move |output| {
        ScopeGuard::into_inner(report)(Some(&output), started.elapsed());
        output
    })
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::pending};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_end_is_reported_once() {
        let ends = RefCell::new(Vec::new());
        let report = |output: Option<&u8>, took| ends.borrow_mut().push((output.copied(), took));
        assert_eq!(report_end(async { 7 }, report).await, 7);
        let limit = Duration::from_millis(300);
        let given_up = tokio::time::timeout(limit, report_end(pending(), report)).await;
        assert!(given_up.is_err());
        drop(report_end(pending(), report));
        let expected = [
            (Some(7), Duration::ZERO),
            (None, limit),
            (None, Duration::ZERO),
        ];
        assert_eq!(*ends.borrow(), expected);
    }
}
