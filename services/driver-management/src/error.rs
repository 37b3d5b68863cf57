//! What can go wrong in driver-management, and what a caller learns of it: one enum, one `match`.
//! Both edges answer with the [`Fault`] that comes out of it. Errors of the process itself (a bad
//! setting, a busy port) are not here: they stop the start in `lib.rs`.

use marketplace::{supply::DriverStatus, zone::Zone};
use platform::{
    fault::{Fault, Kind},
    postgres,
};
use surge_proto::convert::Malformed;
use uuid::Uuid;

/// Why a use case failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request makes no sense.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The reported status cannot follow the current one.
    #[error(
        "the driver is {current} and cannot report {asked}; allowed now: {}{}",
        names(.allowed),
        how_to_decline(*.current, *.asked)
    )]
    IllegalTransition {
        /// What the driver is doing.
        current: DriverStatus,
        /// What the report says.
        asked: DriverStatus,
        /// What it may say.
        allowed: &'static [DriverStatus],
    },
    /// The service holds no more drivers.
    #[error("the fleet is full: it holds {0} drivers; raise FLEET_LIMIT")]
    FleetFull(usize),
    /// The zone is not served.
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
    /// PostgreSQL failed, is away, or did not answer in time.
    #[error("PostgreSQL: {0}")]
    Database(#[from] sqlx::Error),
}

impl Error {
    /// Whether PostgreSQL is away, so that trying again later can succeed.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Database(cause) if postgres::is_away(cause))
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Malformed(malformed) => Self::invalid(malformed.field, malformed.problem),
            Error::OutsideServiceArea(_) => Self::new(Kind::NotFound, error),
            Error::IllegalTransition { .. }
            | Error::FleetFull(_)
            | Error::RideUnderWay(_)
            | Error::RideReleased(_) => Self::new(Kind::FailedPrecondition, error),
            Error::Contended(_) => Self::new(Kind::Unavailable, error),
            Error::Database(cause) => Self::of_database(&cause),
        }
    }
}

const fn how_to_decline(current: DriverStatus, asked: DriverStatus) -> &'static str {
    match (current, asked) {
        (DriverStatus::EnRoute, DriverStatus::Idle) => {
            ", or idle with the ride to decline in `declines`"
        }
        _ => "",
    }
}

fn names(statuses: &[DriverStatus]) -> String {
    statuses
        .iter()
        .map(|status| status.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn illegal_transition_names_the_legal_ones() {
        let error = Error::IllegalTransition {
            current: DriverStatus::EnRoute,
            asked: DriverStatus::Idle,
            allowed: &[DriverStatus::EnRoute, DriverStatus::OnTrip],
        };
        let fault = Fault::from(error);
        assert_eq!(fault.kind(), Kind::FailedPrecondition);
        assert_eq!(
            fault.detail(),
            "the driver is en_route and cannot report idle; allowed now: en_route, on_trip, or \
             idle with the ride to decline in `declines`"
        );
    }

    #[test]
    fn outage_hides_the_words_of_the_database() {
        let fault = Fault::from(Error::Database(sqlx::Error::PoolTimedOut));
        assert_eq!(fault.kind(), Kind::Unavailable);
        assert_eq!(fault.detail(), "PostgreSQL is away; try again");
    }
}
