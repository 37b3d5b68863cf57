//! What can go wrong in ride-management, and what a caller learns of it: one enum, one `match`.
//! Both edges answer with the [`Fault`] that comes out of it. Errors of the process itself (a bad
//! setting, a busy port) are not here: they stop the start in `lib.rs`.

use marketplace::{
    quote::QuoteRefusal,
    zone::{OutsideServiceArea, Zone},
};
use platform::{
    fault::{Fault, Kind},
    postgres::{self, Outage},
};
use surge_proto::{convert::Malformed, token::Forged};
use uuid::Uuid;

use crate::ride::RideState;

/// Why a use case failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The quote token was not signed with our key, or was changed.
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
    /// A field of a request or a message makes no sense.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// A recount of demand takes longer than a request may wait.
    #[error("demand is being counted anew; try again")]
    Recounting,
    /// A call to driver-management failed.
    #[error("driver-management: {} ({:?})", .0.message(), .0.code())]
    Supply(#[from] Box<tonic::Status>),
    /// PostgreSQL failed, is away, or did not answer in time.
    #[error("PostgreSQL: {0}")]
    Database(#[from] sqlx::Error),
}

impl Error {
    /// Whether PostgreSQL is away, so that trying again later can succeed.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Database(cause) if postgres::is_away(cause))
    }

    /// Whether a transaction that failed with this error may have been committed all the same,
    /// because its answer was lost. Without a connection nothing was committed.
    pub fn leaves_doubt(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::PoolTimedOut) => false,
            Self::Database(cause) => Outage::of(cause).is_some_and(Outage::leaves_doubt),
            _ => false,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match &error {
            Error::Forged(_) => Self::invalid("quote", error),
            Error::OutsideServiceArea(_) => Self::invalid("pickup", error),
            Error::Malformed(malformed) => Self::invalid(malformed.field, &malformed.problem),
            Error::NoSuchRide(_) | Error::ZoneNotServed(_) => Self::new(Kind::NotFound, error),
            Error::QuoteRefused(_) | Error::QuoteUsed | Error::NotCancellable(_) => {
                Self::new(Kind::FailedPrecondition, error)
            }
            Error::Recounting => Self::new(Kind::Unavailable, error),
            Error::Supply(_) => {
                Self::new(Kind::Unavailable, "driver-management is away; try again")
            }
            Error::Database(cause) => Self::of_database(cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_differs_from_a_wrong_query() {
        let away = Fault::from(Error::from(sqlx::Error::PoolTimedOut));
        assert_eq!(away.kind(), Kind::Unavailable);
        let ours = Fault::from(Error::from(sqlx::Error::RowNotFound));
        assert_eq!(ours.kind(), Kind::Internal);
    }

    #[test]
    fn refused_quote_says_what_to_do() {
        let fault = Fault::from(Error::from(QuoteRefusal::Expired));
        assert_eq!(fault.kind(), Kind::FailedPrecondition);
        assert!(fault.detail().contains("ask for a new one"));
    }
}
