//! What can go wrong in ride-management, and what a caller is told about it. Errors of the process
//! itself (a bad setting, a busy port) are not here: they stop the start in `lib.rs`.

use marketplace::{
    quote::QuoteRefusal,
    zone::{OutsideServiceArea, Zone},
};
use platform::{
    fault::{Fault, Kind},
    postgres::is_away,
};
use surge_proto::{convert::Malformed, token::Forged};
use tracing::debug;
use uuid::Uuid;

use crate::ride::RideState;

/// Why a use case did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The quote token is not one of ours, or was changed.
    #[error("{0}")]
    Forged(#[from] Forged),
    /// The quote does not hold for this trip now.
    #[error("{0}")]
    QuoteRefused(#[from] QuoteRefusal),
    /// The quote was redeemed already, by another rider or for another trip.
    #[error("the quote was used for another ride; ask for a new one")]
    QuoteUsed,
    /// The pickup is not served.
    #[error("{0}")]
    OutsideServiceArea(#[from] OutsideServiceArea),
    /// The zone exists, but is not served.
    #[error("zone {0} lies outside the service area")]
    ZoneNotServed(Zone),
    /// No ride of that id.
    #[error("there is no ride {0}")]
    NoSuchRide(Uuid),
    /// Too late for a cancellation.
    #[error("the ride is {0}; only a requested or matched ride can be cancelled")]
    NotCancellable(RideState),
    /// A message from another service makes no sense.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// Demand is being counted anew, which takes longer than a request may wait.
    #[error("demand is being counted anew; try again")]
    Recounting,
    /// driver-management did not do what it was asked.
    #[error("driver-management: {} ({:?})", .0.message(), .0.code())]
    Supply(#[from] Box<tonic::Status>),
    /// PostgreSQL did not do what it was asked.
    #[error("PostgreSQL: {0}")]
    Database(#[from] sqlx::Error),
}

impl Error {
    /// Whether a transaction that ended so may have been committed all the same: its answer was
    /// lost. A connection that was not to be had cannot have committed anything.
    pub fn leaves_doubt(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::PoolTimedOut) => false,
            Self::Database(error) => is_away(error),
            _ => false,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        fault(&error)
    }
}

fn fault(error: &Error) -> Fault {
    match error {
        Error::Forged(_) => Fault::invalid("quote", error),
        Error::OutsideServiceArea(_) => Fault::invalid("pickup", error),
        Error::Malformed(malformed) => Fault::invalid(malformed.field, &malformed.problem),
        Error::NoSuchRide(_) | Error::ZoneNotServed(_) => Fault::new(Kind::NotFound, error),
        Error::QuoteRefused(_) | Error::QuoteUsed | Error::NotCancellable(_) => {
            Fault::new(Kind::FailedPrecondition, error)
        }
        Error::Recounting => Fault::new(Kind::Unavailable, error),
        Error::Supply(_) => Fault::new(Kind::Unavailable, "driver-management is away; try again"),
        Error::Database(cause) if is_away(cause) => {
            // The loops tell of the outage once; each request that met it would be a flood.
            debug!(error.message = %cause, "PostgreSQL is away: {cause}");
            Fault::new(Kind::Unavailable, "PostgreSQL is away; try again")
        }
        Error::Database(_) => Fault::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_database_is_an_outage_and_a_wrong_query_is_our_fault() {
        let away = Fault::from(Error::from(sqlx::Error::PoolTimedOut));
        assert_eq!(away.kind(), Kind::Unavailable);
        let ours = Fault::from(Error::from(sqlx::Error::RowNotFound));
        assert_eq!(ours.kind(), Kind::Internal);
    }

    #[test]
    fn a_refused_quote_says_what_to_do() {
        let fault = Fault::from(Error::from(QuoteRefusal::Expired));
        assert_eq!(fault.kind(), Kind::FailedPrecondition);
        assert!(fault.detail().contains("ask for a new one"));
    }
}
