//! What can go wrong in this service, and what each edge says about it.

use std::{error::Error as _, time::Duration};

use marketplace::zone::OutsideServiceArea;
use platform::{
    fault::{Fault, Kind},
    grpc,
};
use surge_proto::DataflowMode;
use tonic::{Code, Status};
use uuid::Uuid;

/// Why the service could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A point is outside the area served.
    #[error("{field}: {cause}")]
    OutsideServiceArea {
        /// `pickup` or `dropoff`.
        field: &'static str,
        /// Which area is served.
        cause: OutsideServiceArea,
    },
    /// A dataflow could not say what supply and demand are.
    #[error("dataflow {mode} is unavailable: {cause}")]
    Dataflow {
        /// The mode that was asked.
        mode: DataflowMode,
        /// Why it had no answer.
        cause: DataflowError,
    },
    /// No such quote is kept here.
    #[error(
        "no journey of quote {quote_id} here: a replica keeps the last {kept} quotes that it made \
         itself, so this one is older, or another replica made it and can explain it"
    )]
    UnknownJourney {
        /// The quote.
        quote_id: Uuid,
        /// How many are kept.
        kept: usize,
    },
    /// The mode could not be switched.
    #[error("the dataflow mode was not switched: {0}; try again")]
    Switch(String),
}

/// Why a dataflow had no answer. The span of the call or of the query has the kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataflowError {
    /// The deadline passed.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The dependency of this name cannot be reached.
    #[error("{0} is away")]
    Away(&'static str),
    /// The dependency of this name answered with something impossible.
    #[error("{0} gave an answer that makes no sense")]
    Nonsense(&'static str),
}

impl DataflowError {
    /// The failure of a call: `callee` hangs, is away, or answers nonsense.
    pub(crate) fn of_call(callee: &'static str, status: &Status, deadline: Duration) -> Self {
        match status.code() {
            _ if grpc::is_overdue(status) => Self::Deadline(deadline),
            Code::Unavailable | Code::Cancelled => Self::Away(callee),
            // The connection broke during the call, for which tonic has several codes.
            _ if status.source().is_some() => Self::Away(callee),
            _ => Self::Nonsense(callee),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::OutsideServiceArea { field, cause } => Self::invalid(field, cause),
            Error::Dataflow {
                cause: DataflowError::Deadline(_),
                ..
            } => Self::new(Kind::DeadlineExceeded, error),
            Error::UnknownJourney { .. } => Self::new(Kind::NotFound, error),
            Error::Dataflow { .. } | Error::Switch(_) => Self::new(Kind::Unavailable, error),
        }
    }
}
