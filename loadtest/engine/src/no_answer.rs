//! Why a request brought no complete answer.

use std::time::Duration;

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The deadline passed first.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// No connection could be opened.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection broke before the answer was complete.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl NoAnswer {
    /// A short word by which failures are counted.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::Connect(_) => "connect",
            Self::Broken(_) => "broken",
        }
    }
}

/// The last cause of a chain: "connection refused" says more than "client error".
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
