//! Whose turn it is on a connection of HTTP/1, so that one whose caller says nothing can be ended. hyper has a deadline for
//! heads, which sets a timer for every request; this one sets a timer four times in the length of the deadline.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::sleep;

/// How often it is looked whether anything was said, within the longest silence.
const LOOKS: u32 = 4;

/// How often the turn went from one side to the other: even when it is the caller's.
#[derive(Debug, Default)]
pub(crate) struct Turns(AtomicU32);

impl Turns {
    /// A head has come, or was answered.
    pub(crate) fn pass(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Ends when for this long, or a quarter longer, it was the caller's turn and no complete head came.
    pub(crate) async fn silence(&self, longest: Duration) {
        let mut in_vain = 0;
        while in_vain < LOOKS {
            let turn = self.0.load(Relaxed);
            sleep(longest / LOOKS).await;
            let is_silent = turn.is_multiple_of(2) && turn == self.0.load(Relaxed);
            in_vain = if is_silent { in_vain + 1 } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const LONGEST: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_never_speaks_is_silent() {
        let begun = Instant::now();
        Turns::default().silence(LONGEST).await;
        assert_eq!(begun.elapsed(), LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_being_answered_or_speaks_now_and_then_is_not() {
        let turns = Turns::default();
        turns.pass();
        assert!(timeout(10 * LONGEST, turns.silence(LONGEST)).await.is_err());
        let speaks = async {
            for _ in 0..10 {
                sleep(LONGEST / 2).await;
                turns.pass();
                turns.pass();
            }
        };
        tokio::select! {
            () = turns.silence(LONGEST) => panic!("it spoke"),
            () = speaks => {}
        }
    }
}
