//! One driver, and the rules of a driver's day: which status may follow which, and who may say so.
//! Pure; the table that holds drivers is in `store`, the picture of all of them in `fleet`.
//!
//! ```text
//!             reports           dispatched           rider gets in         rider gets out
//!   offline ──────────▶ idle ─────────────▶ en_route ─────────────▶ on_trip ──────────────┐
//!      ▲ ▲              │ ▲ ▲                 │  │                                        │
//!      │ └── reports ───┘ │ └─ released, gives back                                       │
//!      │                  └──────────────────────│────────────────────────────────────────┘
//!      └────────────────── leaves ───────────────┘
//! ```
//!
//! A driver reports every step but two: only a dispatch sends a driver on the way, and only a
//! release calls one back. On the way a driver may *give the ride back*: decline it, or go offline.
//! The service does so for a driver who is long overdue at the pickup. Such a ride is dispatched
//! anew, to somebody else. Once the rider is in the car, the ride is driven to its end.

use std::time::Duration;

use marketplace::{
    fare::Trip,
    supply::{DriverState, DriverStatus, Dropoff, PICKUP_GRACE},
    time::MarketTime,
    zone::{Position, ServiceArea},
};
use surge_proto::v1::TripStage;
use uuid::Uuid;

use crate::error::Error;

/// All that the service knows of a driver: one row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Driver {
    /// Identifies the driver, who chose it.
    pub driver_id: Uuid,
    /// Grows by one with each report, dispatch and release; 0 for a driver without a row.
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
    pub ride: Option<AssignedRide>,
}

/// The ride that a driver is on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AssignedRide {
    /// Identifies the ride.
    pub ride_id: Uuid,
    /// Where it ends.
    pub dropoff: Position,
    /// When the driver is, or was, expected at the rider, in market time.
    pub pickup_due_at: MarketTime,
    /// When the driver is expected to be idle again, in market time.
    pub dropoff_due_at: MarketTime,
}

impl Driver {
    /// A driver without a row, about to go online.
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

    /// The driver after reporting `asked` at `position`. Repeating the current status only moves
    /// the driver, so a report whose answer was lost can be sent again.
    ///
    /// # Errors
    /// [`Error::IllegalTransition`] when the status must not follow the current one.
    pub fn reports(
        &self,
        asked: DriverStatus,
        position: Position,
        now: MarketTime,
    ) -> Result<Self, Error> {
        self.changes(may_report(self.status), asked, position, now)
    }

    /// The driver after declining a ride, idle or offline at `position`. The ride is named, so that
    /// an older report that arrives late declines nothing; without that ride it is a plain report.
    ///
    /// # Errors
    /// As [`Driver::reports`].
    pub fn declines(
        &self,
        ride_id: Uuid,
        asked: DriverStatus,
        position: Position,
        now: MarketTime,
    ) -> Result<Self, Error> {
        let is_on_the_way = self.status == DriverStatus::EnRoute
            && self.ride.is_some_and(|ride| ride.ride_id == ride_id);
        let allowed = match is_on_the_way {
            true => &[DriverStatus::Idle, DriverStatus::Offline],
            false => may_report(self.status),
        };
        self.changes(allowed, asked, position, now)
    }

    /// The driver without the ride whose pickup is long overdue; `None` when it is not.
    pub fn gives_up(&self, now: MarketTime) -> Option<Self> {
        let ride = self.ride.filter(|_| self.status == DriverStatus::EnRoute)?;
        (ride.pickup_due_at + PICKUP_GRACE <= now).then_some(Self {
            version: self.version + 1,
            status: DriverStatus::Idle,
            changed_at: now,
            ride: None,
            ..*self
        })
    }

    fn changes(
        &self,
        allowed: &'static [DriverStatus],
        asked: DriverStatus,
        position: Position,
        now: MarketTime,
    ) -> Result<Self, Error> {
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
            reported_at: self.moved_at,
        }
    }
}

impl AssignedRide {
    /// The ride with the rider in the car: its trip begins now, so its end is estimated anew.
    fn picked_up_at(self, position: Position, now: MarketTime) -> Self {
        let trip = Trip::estimate(position, self.dropoff);
        Self {
            dropoff_due_at: now + minutes(trip.minutes),
            ..self
        }
    }
}

/// The stage that a trip reaches between two statuses.
pub fn stage_between(before: DriverStatus, after: DriverStatus) -> Option<TripStage> {
    match (before, after) {
        (DriverStatus::EnRoute, DriverStatus::OnTrip) => Some(TripStage::PickedUp),
        (DriverStatus::OnTrip, DriverStatus::Idle) => Some(TripStage::DroppedOff),
        (DriverStatus::EnRoute, DriverStatus::Idle | DriverStatus::Offline) => {
            Some(TripStage::GivenBack)
        }
        _ => None,
    }
}

/// A number of minutes, as estimates give it, as a duration.
pub fn minutes(minutes: f64) -> Duration {
    Duration::from_secs_f64(minutes * 60.0)
}

/// What a driver may report in each status.
const fn may_report(status: DriverStatus) -> &'static [DriverStatus] {
    use DriverStatus::{EnRoute, Idle, Offline, OnTrip};
    match status {
        Offline => &[Offline, Idle],
        Idle => &[Idle, Offline],
        EnRoute => &[EnRoute, OnTrip, Offline],
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
        let ride = AssignedRide {
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
    fn only_legal_status_changes_are_accepted() {
        use DriverStatus::{EnRoute, Idle, Offline, OnTrip};
        let legal = [
            (Offline, Idle),
            (Idle, Offline),
            (EnRoute, OnTrip),
            (EnRoute, Offline),
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
    fn only_the_named_ride_is_declined() {
        let driver = en_route();
        let declines = |ride_id| driver.declines(ride_id, DriverStatus::Idle, at(40.76), NOON);
        assert!(declines(Uuid::now_v7()).is_err(), "another ride");
        let declined = declines(driver.ride.unwrap().ride_id).unwrap();
        assert_eq!((declined.status, declined.ride), (DriverStatus::Idle, None));
        let stage = stage_between(driver.status, declined.status);
        assert_eq!(stage, Some(TripStage::GivenBack));
    }

    #[test]
    fn driver_gives_up_after_the_grace() {
        let driver = en_route();
        let gives_up_at = NOON + minutes(5.0) + PICKUP_GRACE;
        assert_eq!(
            driver.gives_up(gives_up_at - Duration::from_millis(1)),
            None
        );
        let idle = driver.gives_up(gives_up_at).unwrap();
        assert_eq!((idle.status, idle.ride), (DriverStatus::Idle, None));
        assert_eq!(
            idle.moved_at, driver.moved_at,
            "the driver reported nothing"
        );
        let on_trip = driver
            .reports(DriverStatus::OnTrip, at(40.76), NOON)
            .unwrap();
        assert_eq!(on_trip.gives_up(gives_up_at), None);
    }

    #[test]
    fn pickup_estimates_the_dropoff_anew() {
        let later = NOON + minutes(9.0);
        let reports_on_trip = |driver: Driver, lat, now| {
            let on_trip = driver.reports(DriverStatus::OnTrip, at(lat), now);
            on_trip.unwrap()
        };
        let on_trip = reports_on_trip(en_route(), 40.76, later);
        let trip = Trip::estimate(at(40.76), at(40.78));
        let due_at = later + minutes(trip.minutes);
        assert_eq!(on_trip.ride.unwrap().dropoff_due_at, due_at);

        let again = reports_on_trip(on_trip, 40.77, later + minutes(1.0));
        assert_eq!(again.ride, on_trip.ride, "a repeated report moves the car");
        assert_eq!(again.changed_at, on_trip.changed_at);
    }

    #[test]
    fn dropoff_ends_the_ride() {
        let on_trip = en_route().reports(DriverStatus::OnTrip, at(40.76), NOON);
        let idle = on_trip
            .unwrap()
            .reports(DriverStatus::Idle, at(40.78), NOON);
        let idle = idle.unwrap();
        assert_eq!((idle.status, idle.ride), (DriverStatus::Idle, None));
        let stage = stage_between(DriverStatus::OnTrip, idle.status);
        assert_eq!(stage, Some(TripStage::DroppedOff));
    }
}
