//! One driver, and the rules of a driver's day: which status may follow which, and who may say so.
//! Pure; the table that holds drivers is in `store`, the picture of all of them in `fleet`.

use marketplace::{
    fare::Trip,
    supply::{DriverState, DriverStatus, Dropoff},
    time::MarketTime,
    zone::{Position, ServiceArea},
};
use surge_proto::v1::TripStage;
use uuid::Uuid;

use crate::error::Error;

/// Everything that is known of a driver: one row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Driver {
    /// Who.
    pub driver_id: Uuid,
    /// Grows by one with every change of status; 0 is a driver who was never written down.
    pub version: i64,
    /// What the driver is doing.
    pub status: DriverStatus,
    /// Since when, in market time.
    pub changed_at: MarketTime,
    /// Where the driver was last seen.
    pub position: Position,
    /// When that was, in market time.
    pub moved_at: MarketTime,
    /// The ride under way; there is one exactly while the status says so.
    pub ride: Option<Ride>,
}

/// A ride that a driver is on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ride {
    /// Which ride.
    pub ride_id: Uuid,
    /// Where it ends.
    pub dropoff: Position,
    /// When the driver is, or was, expected at the rider, in market time.
    pub pickup_due_at: MarketTime,
    /// When the driver is expected to be idle again, in market time.
    pub dropoff_due_at: MarketTime,
}

impl Driver {
    /// A driver nobody has heard of yet, about to go online.
    pub const fn newcomer(driver_id: Uuid, position: Position, now: MarketTime) -> Self {
        Self {
            driver_id,
            version: 0,
            status: DriverStatus::Offline,
            changed_at: now,
            position,
            moved_at: now,
            ride: None,
        }
    }

    /// The driver after reporting `asked` at `position`. Repeating the current status is allowed
    /// and only moves the driver, so a report whose answer was lost can be sent again.
    ///
    /// # Errors
    /// [`Error::IllegalTransition`] when the status must not follow the current one.
    pub fn reports(
        &self,
        asked: DriverStatus,
        position: Position,
        now: MarketTime,
    ) -> Result<Self, Error> {
        let allowed = may_report(self.status);
        if !allowed.contains(&asked) {
            let current = self.status;
            return Err(Error::IllegalTransition {
                current,
                asked,
                allowed,
            });
        }
        let ride = self.ride.filter(|_| asked.is_on_a_ride());
        Ok(Self {
            version: self.version + 1,
            status: asked,
            changed_at: if asked == self.status {
                self.changed_at
            } else {
                now
            },
            position,
            moved_at: now,
            ride: match stage_between(self.status, asked) {
                Some(TripStage::PickedUp) => ride.map(|ride| ride.picked_up_at(position, now)),
                _ => ride,
            },
            ..*self
        })
    }

    /// What supply needs to know of this driver.
    pub fn state(&self, area: &ServiceArea) -> DriverState {
        DriverState {
            status: self.status,
            position: self.position,
            dropoff: self.ride.map(|ride| Dropoff {
                zone: area.zone_of(ride.dropoff).ok(),
                due_at: ride.dropoff_due_at,
            }),
        }
    }
}

impl Ride {
    /// The ride with the rider in the car: only now is it known when the trip really began.
    fn picked_up_at(self, position: Position, now: MarketTime) -> Self {
        let trip = Trip::estimate(position, self.dropoff);
        Self {
            dropoff_due_at: now + minutes(trip.minutes),
            ..self
        }
    }
}

/// The step of a trip that lies between two statuses.
pub fn stage_between(before: DriverStatus, after: DriverStatus) -> Option<TripStage> {
    match (before, after) {
        (DriverStatus::EnRoute, DriverStatus::OnTrip) => Some(TripStage::PickedUp),
        (DriverStatus::OnTrip, DriverStatus::Idle) => Some(TripStage::DroppedOff),
        _ => None,
    }
}

/// Minutes, as estimates give them, as a duration.
pub fn minutes(minutes: f64) -> std::time::Duration {
    std::time::Duration::from_secs_f64(minutes * 60.0)
}

/// What a driver may report in each status. Only dispatch sends a driver on the way, and a ride
/// once begun is driven to its end.
const fn may_report(status: DriverStatus) -> &'static [DriverStatus] {
    use DriverStatus::{EnRoute, Idle, Offline, OnTrip};
    match status {
        Offline => &[Offline, Idle],
        Idle => &[Idle, Offline],
        EnRoute => &[EnRoute, OnTrip],
        OnTrip => &[OnTrip, Idle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: MarketTime = MarketTime::from_millis(1_396_627_200_000);

    fn at(lat: f64) -> Position {
        Position::new(lat, -73.98).unwrap()
    }

    fn en_route() -> Driver {
        let ride = Ride {
            ride_id: Uuid::now_v7(),
            dropoff: at(40.78),
            pickup_due_at: NOON + minutes(5.0),
            dropoff_due_at: NOON + minutes(20.0),
        };
        Driver {
            status: DriverStatus::EnRoute,
            ride: Some(ride),
            ..Driver::newcomer(Uuid::now_v7(), at(40.75), NOON)
        }
    }

    #[test]
    fn every_pair_of_statuses_is_either_allowed_or_refused_with_what_is_allowed() {
        use DriverStatus::{EnRoute, Idle, Offline, OnTrip};
        let legal = [
            (Offline, Idle),
            (Idle, Offline),
            (EnRoute, OnTrip),
            (OnTrip, Idle),
        ];
        for current in DriverStatus::ALL {
            for asked in DriverStatus::ALL {
                let driver = Driver {
                    status: current,
                    ..en_route()
                };
                let outcome = driver.reports(asked, at(40.76), NOON);
                let expected = current == asked || legal.contains(&(current, asked));
                assert_eq!(outcome.is_ok(), expected, "{current} to {asked}");
            }
        }
    }

    #[test]
    fn the_dropoff_is_estimated_anew_when_the_trip_begins() {
        let later = NOON + minutes(9.0);
        let on_trip = en_route()
            .reports(DriverStatus::OnTrip, at(40.76), later)
            .unwrap();
        let trip = Trip::estimate(at(40.76), at(40.78));
        assert_eq!(
            on_trip.ride.unwrap().dropoff_due_at,
            later + minutes(trip.minutes)
        );

        let again = on_trip
            .reports(DriverStatus::OnTrip, at(40.77), later + minutes(1.0))
            .unwrap();
        assert_eq!(
            again.ride, on_trip.ride,
            "repeating the report moves only the car"
        );
        assert_eq!(again.changed_at, on_trip.changed_at);
    }

    #[test]
    fn a_dropoff_ends_the_ride() {
        let on_trip = en_route()
            .reports(DriverStatus::OnTrip, at(40.76), NOON)
            .unwrap();
        let idle = on_trip
            .reports(DriverStatus::Idle, at(40.78), NOON)
            .unwrap();
        assert_eq!((idle.status, idle.ride), (DriverStatus::Idle, None));
        assert_eq!(
            stage_between(on_trip.status, idle.status),
            Some(TripStage::DroppedOff)
        );
    }
}
