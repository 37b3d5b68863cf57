//! A loop that fails every quarter of a second must not log four lines a second: an outage is told when it begins and
//! when it ends.

use std::fmt::Display;

use tracing::{info, warn};

/// What a loop does, and whether it is failing.
#[derive(Debug)]
pub struct Outage {
    work: String,
    failing: bool,
}

impl Outage {
    /// No outage yet of `work`, which reads as the subject of a sentence: "the outbox", "stream SUPPLY".
    pub fn of(work: impl Into<String>) -> Self {
        Self {
            work: work.into(),
            failing: false,
        }
    }

    /// Takes note of how one step went, and logs it if that is news.
    pub fn note<T, E: Display>(&mut self, step: &Result<T, E>) {
        match step {
            Err(error) if !self.failing => {
                warn!(error.message = %error, "{} waits: {error:#}", self.work);
            }
            Ok(_) if self.failing => info!("{} goes on", self.work),
            _ => {}
        }
        self.failing = step.is_err();
    }

    /// Whether the last step failed.
    pub const fn is_on(&self) -> bool {
        self.failing
    }
}
