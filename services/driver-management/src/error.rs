//! What can go wrong in driver-management, and what the caller hears of it: one enum, one `match`.
//! Both edges answer with the [`Fault`] that comes out of it; SQL states become these variants in
//! `store` and nowhere else.

use marketplace::{supply::DriverStatus, zone::Zone};
use platform::{
    fault::{Fault, Kind},
    postgres,
};
use uuid::Uuid;

/// Why a use case failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The status cannot follow the current one.
    #[error("the driver is {current} and cannot report {asked}; allowed now: {}", words(.allowed))]
    IllegalTransition {
        /// What the driver is doing.
        current: DriverStatus,
        /// What the report says.
        asked: DriverStatus,
        /// What it may say.
        allowed: &'static [DriverStatus],
    },
    /// A driver too many.
    #[error("the fleet is full: it holds {0} drivers; raise FLEET_LIMIT")]
    FleetFull(usize),
    /// A zone that nobody serves.
    #[error("zone {0} is not in the service area")]
    OutsideServiceArea(Zone),
    /// A ride whose rider is already in the car cannot be released.
    #[error("ride {0} has its rider in the car; it can only be driven to its end")]
    RideUnderWay(Uuid),
    /// A ride that was released gets no driver any more.
    #[error("ride {0} was released; a new ride needs a new id")]
    RideReleased(Uuid),
    /// Others changed the same thing again and again.
    #[error("{0} is being changed by others at this moment; try again")]
    Contended(Uuid),
    /// The database failed, is away, or did not answer in time.
    #[error("PostgreSQL: {0}")]
    Store(#[from] sqlx::Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        fault(error)
    }
}

fn fault(error: Error) -> Fault {
    match error {
        Error::IllegalTransition { .. } => Fault::new(Kind::FailedPrecondition, error),
        Error::FleetFull(_) => Fault::new(Kind::FailedPrecondition, error),
        Error::OutsideServiceArea(_) => Fault::new(Kind::NotFound, error),
        Error::RideUnderWay(_) => Fault::new(Kind::FailedPrecondition, error),
        Error::RideReleased(_) => Fault::new(Kind::FailedPrecondition, error),
        Error::Contended(_) => Fault::new(Kind::Unavailable, error),
        Error::Store(cause) if postgres::is_away(&cause) => {
            Fault::new(Kind::Unavailable, "PostgreSQL is away; try again")
        }
        Error::Store(cause) => Fault::internal(cause),
    }
}

fn words(statuses: &[DriverStatus]) -> String {
    let words: Vec<&str> = statuses.iter().map(|status| status.as_str()).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_illegal_transition_tells_what_would_be_legal() {
        let error = Error::IllegalTransition {
            current: DriverStatus::EnRoute,
            asked: DriverStatus::Offline,
            allowed: &[DriverStatus::EnRoute, DriverStatus::OnTrip],
        };
        let fault = Fault::from(error);
        assert_eq!(fault.kind(), Kind::FailedPrecondition);
        assert_eq!(
            fault.detail(),
            "the driver is en_route and cannot report offline; allowed now: en_route, on_trip"
        );
    }

    #[test]
    fn a_database_that_is_away_is_told_without_its_words() {
        let fault = Fault::from(Error::Store(sqlx::Error::PoolTimedOut));
        assert_eq!(fault.kind(), Kind::Unavailable);
        assert_eq!(fault.detail(), "PostgreSQL is away; try again");
    }
}
