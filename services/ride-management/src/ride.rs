//! A ride and its life: a pure state machine, the only place that decides what may follow what. The
//! store applies it to a locked row; nobody else changes a ride.
//!
//! ```text
//! requested -> matched -> picked_up -> completed
//!     |           |
//!     +-----------+--> cancelled          requested -> unserved
//! ```
//!
//! News of a trip comes by events that may be repeated or overtaken, so a later stage also
//! completes earlier ones.

use std::{fmt, str::FromStr};

use marketplace::{
    quote::Quote,
    surge::Multiplier,
    time::MarketTime,
    zone::{Position, Zone},
};
use serde::Serialize;
use surge_proto::v1;
use utoipa::ToSchema;
use uuid::Uuid;

/// A ride, from its request to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Ride {
    /// Identifies the ride.
    pub ride_id: Uuid,
    /// Who wants it.
    pub rider_id: Uuid,
    /// The quote that was redeemed for it.
    pub quote_id: Uuid,
    /// Where it stands.
    pub state: RideState,
    /// Zone of the pickup.
    pub zone: Zone,
    /// Where the rider gets in.
    pub pickup: Position,
    /// Where the rider gets out.
    pub dropoff: Position,
    /// The promised fare in cents.
    pub fare_cents: i64,
    /// The surge multiplier in that fare.
    pub multiplier: Multiplier,
    /// The driver, once matched.
    pub driver_id: Option<Uuid>,
    /// When it was requested.
    pub requested_at: MarketTime,
    /// When a driver was found.
    pub matched_at: Option<MarketTime>,
    /// When the driver is expected at the pickup.
    pub pickup_due_at: Option<MarketTime>,
    /// When the driver is expected at the drop-off.
    pub dropoff_due_at: Option<MarketTime>,
    /// When the rider got in.
    pub picked_up_at: Option<MarketTime>,
    /// When it was completed, cancelled or given up.
    pub ended_at: Option<MarketTime>,
    /// What driver-management still has to be asked about it.
    pub owed: Option<SupplyCall>,
    /// Trace context of the request.
    pub traceparent: Option<String>,
}

/// Where a ride stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RideState {
    /// Acknowledged, without a driver yet.
    Requested,
    /// A driver is on the way to the rider.
    Matched,
    /// The rider is in the car.
    PickedUp,
    /// The rider has arrived.
    Completed,
    /// The rider changed their mind before the pickup.
    Cancelled,
    /// There was no driver for it.
    Unserved,
}

/// A call to driver-management that a ride is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupplyCall {
    /// Send a driver.
    Dispatch,
    /// Free the driver who was sent, or may have been: the answer to a call can get lost.
    Release,
}

/// A driver who was sent to a ride.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// The driver.
    pub driver_id: Uuid,
    /// When the driver is expected at the pickup.
    pub pickup_due_at: MarketTime,
    /// When the driver is expected at the drop-off.
    pub dropoff_due_at: MarketTime,
}

/// Something that happens to a ride.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// A driver was sent.
    Match(Match),
    /// driver-management says that nobody is near.
    NobodyNear,
    /// driver-management did not answer for too long.
    PatienceOver,
    /// The rider cancels.
    Cancel,
    /// The driver picked the rider up.
    PickUp {
        /// The driver.
        driver_id: Uuid,
        /// When.
        at: MarketTime,
    },
    /// The driver dropped the rider off.
    DropOff {
        /// The driver.
        driver_id: Uuid,
        /// When.
        at: MarketTime,
    },
}

/// What a change did to a ride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It entered a new state.
    Moved,
    /// It was there already: a repeat.
    Unmoved,
    /// Its state forbids the change.
    Refused,
}

impl Ride {
    /// A ride as requested: at the price and between the points of its quote, and owed a driver.
    pub fn request(rider_id: Uuid, quote: &Quote, zone: Zone, now: MarketTime) -> Self {
        Self {
            ride_id: Uuid::now_v7(),
            rider_id,
            quote_id: quote.quote_id,
            state: RideState::Requested,
            zone,
            pickup: quote.pickup,
            dropoff: quote.dropoff,
            fare_cents: quote.fare_cents,
            multiplier: quote.multiplier,
            driver_id: None,
            requested_at: now,
            matched_at: None,
            pickup_due_at: None,
            dropoff_due_at: None,
            picked_up_at: None,
            ended_at: None,
            owed: Some(SupplyCall::Dispatch),
            traceparent: platform::propagation::traceparent(),
        }
    }

    /// Whether this ride is what `other` asks for: the same rider redeems the same quote for the
    /// same trip.
    pub fn is_same_request(&self, other: &Self) -> bool {
        self.rider_id == other.rider_id
            && self.quote_id == other.quote_id
            && self.pickup.is_same_spot(other.pickup)
            && self.dropoff.is_same_spot(other.dropoff)
    }

    /// When it entered its state.
    pub fn entered_state_at(&self) -> MarketTime {
        let entered = match self.state {
            RideState::Requested => None,
            RideState::Matched => self.matched_at,
            RideState::PickedUp => self.picked_up_at,
            RideState::Completed | RideState::Cancelled | RideState::Unserved => self.ended_at,
        };
        entered.unwrap_or(self.requested_at)
    }

    /// Takes in a change at `now`.
    pub fn apply(&mut self, change: Change, now: MarketTime) -> Outcome {
        match change {
            Change::Match(found) => self.matched(found, now),
            Change::NobodyNear => self.given_up(None, now),
            Change::PatienceOver => self.given_up(Some(SupplyCall::Release), now),
            Change::Cancel => self.cancelled(now),
            Change::PickUp { driver_id, at } => self.picked_up(driver_id, at),
            Change::DropOff { driver_id, at } => self.dropped_off(driver_id, at),
        }
    }

    fn matched(&mut self, found: Match, now: MarketTime) -> Outcome {
        match self.state {
            RideState::Requested => {
                self.driver_id = Some(found.driver_id);
                self.pickup_due_at = Some(found.pickup_due_at);
                self.dropoff_due_at = Some(found.dropoff_due_at);
                self.matched_at = Some(now);
                self.moved_to(RideState::Matched, None)
            }
            // The ride ended while the driver was being found: nobody waits for them any more.
            RideState::Cancelled | RideState::Unserved => {
                self.owed = Some(SupplyCall::Release);
                Outcome::Refused
            }
            _ if self.is_driven_by(found.driver_id) => Outcome::Unmoved,
            _ => Outcome::Refused,
        }
    }

    fn given_up(&mut self, owed: Option<SupplyCall>, now: MarketTime) -> Outcome {
        match self.state {
            RideState::Requested => self.ended(RideState::Unserved, owed, now),
            RideState::Unserved => Outcome::Unmoved,
            _ => Outcome::Refused,
        }
    }

    fn cancelled(&mut self, now: MarketTime) -> Outcome {
        match self.state {
            // A requested ride too: its dispatch may be under way at this very moment.
            RideState::Requested | RideState::Matched => {
                self.ended(RideState::Cancelled, Some(SupplyCall::Release), now)
            }
            RideState::Cancelled => Outcome::Unmoved,
            _ => Outcome::Refused,
        }
    }

    fn picked_up(&mut self, driver_id: Uuid, at: MarketTime) -> Outcome {
        match self.state {
            RideState::Requested | RideState::Matched if self.is_driven_by(driver_id) => {
                self.driver_id = Some(driver_id);
                self.picked_up_at = Some(at);
                self.moved_to(RideState::PickedUp, None)
            }
            RideState::PickedUp | RideState::Completed if self.is_driven_by(driver_id) => {
                self.picked_up_at.get_or_insert(at);
                Outcome::Unmoved
            }
            _ => Outcome::Refused,
        }
    }

    fn dropped_off(&mut self, driver_id: Uuid, at: MarketTime) -> Outcome {
        match self.state {
            RideState::Requested | RideState::Matched | RideState::PickedUp
                if self.is_driven_by(driver_id) =>
            {
                self.driver_id = Some(driver_id);
                self.ended(RideState::Completed, None, at)
            }
            RideState::Completed if self.is_driven_by(driver_id) => Outcome::Unmoved,
            _ => Outcome::Refused,
        }
    }

    /// A ride without a driver may be any driver's: the answer that named them can have been lost.
    fn is_driven_by(&self, driver_id: Uuid) -> bool {
        self.driver_id.is_none_or(|known| known == driver_id)
    }

    fn ended(&mut self, state: RideState, owed: Option<SupplyCall>, at: MarketTime) -> Outcome {
        self.ended_at = Some(at);
        self.moved_to(state, owed)
    }

    fn moved_to(&mut self, state: RideState, owed: Option<SupplyCall>) -> Outcome {
        self.state = state;
        self.owed = owed;
        Outcome::Moved
    }
}

impl RideState {
    /// All states, in the order of a ride's life.
    pub const ALL: [Self; 6] = [
        Self::Requested,
        Self::Matched,
        Self::PickedUp,
        Self::Completed,
        Self::Cancelled,
        Self::Unserved,
    ];

    /// The name on the wire, in the database and in subjects.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Matched => "matched",
            Self::PickedUp => "picked_up",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Unserved => "unserved",
        }
    }
}

impl From<RideState> for v1::RideState {
    fn from(state: RideState) -> Self {
        match state {
            RideState::Requested => Self::Requested,
            RideState::Matched => Self::Matched,
            RideState::PickedUp => Self::PickedUp,
            RideState::Completed => Self::Completed,
            RideState::Cancelled => Self::Cancelled,
            RideState::Unserved => Self::Unserved,
        }
    }
}

impl fmt::Display for RideState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RideState {
    type Err = UnknownState;

    fn from_str(name: &str) -> Result<Self, UnknownState> {
        let named = Self::ALL.into_iter().find(|state| state.as_str() == name);
        named.ok_or_else(|| UnknownState(name.to_owned()))
    }
}

/// The text names no state of a ride.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no state of a ride")]
pub struct UnknownState(String);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: MarketTime = MarketTime::from_millis(1_396_645_200_000);
    const LATER: MarketTime = MarketTime::from_millis(1_396_645_800_000);

    fn requested() -> Ride {
        let pickup = Position::new(40.7527, -73.9772).unwrap();
        let quote = Quote {
            quote_id: Uuid::now_v7(),
            zone: Zone::at(pickup),
            pickup,
            dropoff: Position::new(40.7075, -74.0113).unwrap(),
            fare_cents: 2_130,
            multiplier: Multiplier::ONE,
            expires_at: LATER,
        };
        Ride::request(Uuid::now_v7(), &quote, quote.zone, NOW)
    }

    fn found(driver_id: Uuid) -> Change {
        Change::Match(Match {
            driver_id,
            pickup_due_at: NOW,
            dropoff_due_at: LATER,
        })
    }

    /// Everything that can happen to a ride with one driver.
    fn changes(driver_id: Uuid) -> [Change; 6] {
        [
            found(driver_id),
            Change::NobodyNear,
            Change::PatienceOver,
            Change::Cancel,
            Change::PickUp { driver_id, at: NOW },
            Change::DropOff {
                driver_id,
                at: LATER,
            },
        ]
    }

    /// Walks through every sequence of changes up to `depth` and shows each step to `check`.
    fn walk(ride: &Ride, depth: usize, driver: Uuid, check: &impl Fn(&Ride, &Ride, Outcome)) {
        if depth == 0 {
            return;
        }
        for change in changes(driver) {
            let mut next = ride.clone();
            let outcome = next.apply(change, NOW);
            check(ride, &next, outcome);
            walk(&next, depth - 1, driver, check);
        }
    }

    #[test]
    fn a_ride_goes_from_request_to_completion() {
        let (mut ride, driver_id) = (requested(), Uuid::now_v7());
        assert_eq!(ride.apply(found(driver_id), NOW), Outcome::Moved);
        assert_eq!((ride.state, ride.owed), (RideState::Matched, None));
        let pick_up = Change::PickUp { driver_id, at: NOW };
        assert_eq!(ride.apply(pick_up, NOW), Outcome::Moved);
        let drop_off = Change::DropOff {
            driver_id,
            at: LATER,
        };
        assert_eq!(ride.apply(drop_off, NOW), Outcome::Moved);
        assert_eq!(ride.state, RideState::Completed);
        assert_eq!(ride.entered_state_at(), LATER);
    }

    #[test]
    fn no_sequence_of_changes_leads_back_or_out_of_an_end() {
        let rank = |state: RideState| RideState::ALL.iter().position(|other| *other == state);
        walk(
            &requested(),
            5,
            Uuid::now_v7(),
            &|before, after, outcome| {
                assert_eq!(outcome == Outcome::Moved, before.state != after.state);
                assert!(rank(after.state) >= rank(before.state));
                if before.ended_at.is_some() {
                    assert_ne!(outcome, Outcome::Moved, "{} is an end", before.state);
                }
                let ended = matches!(
                    after.state,
                    RideState::Completed | RideState::Cancelled | RideState::Unserved
                );
                assert_eq!(after.ended_at.is_some(), ended);
            },
        );
    }

    #[test]
    fn a_repeated_change_changes_nothing() {
        walk(&requested(), 3, Uuid::now_v7(), &|_, ride, _| {
            for change in changes(ride.driver_id.unwrap_or(Uuid::nil())) {
                let mut once = ride.clone();
                once.apply(change, NOW);
                let mut twice = once.clone();
                assert_ne!(twice.apply(change, NOW), Outcome::Moved);
                assert_eq!(once, twice);
            }
        });
    }

    #[test]
    fn only_an_open_or_an_ended_ride_is_owed_a_call() {
        walk(&requested(), 5, Uuid::now_v7(), &|_, ride, _| {
            let possible: &[Option<SupplyCall>] = match ride.state {
                RideState::Requested => &[Some(SupplyCall::Dispatch)],
                RideState::Cancelled => &[Some(SupplyCall::Release)],
                RideState::Unserved => &[Some(SupplyCall::Release), None],
                _ => &[None],
            };
            assert!(possible.contains(&ride.owed), "{ride:?}");
        });
    }

    #[test]
    fn a_driver_who_comes_too_late_is_to_be_freed() {
        let mut ride = requested();
        ride.apply(Change::NobodyNear, NOW);
        assert_eq!(ride.owed, None);
        assert_eq!(ride.apply(found(Uuid::now_v7()), NOW), Outcome::Refused);
        assert_eq!(ride.owed, Some(SupplyCall::Release));
    }

    #[test]
    fn news_of_a_drop_off_may_overtake_that_of_the_pickup() {
        let (mut ride, driver_id) = (requested(), Uuid::now_v7());
        let drop_off = Change::DropOff {
            driver_id,
            at: LATER,
        };
        assert_eq!(ride.apply(drop_off, LATER), Outcome::Moved);
        assert_eq!(ride.driver_id, Some(driver_id));
        let pick_up = Change::PickUp { driver_id, at: NOW };
        assert_eq!(ride.apply(pick_up, LATER), Outcome::Unmoved);
        assert_eq!(ride.picked_up_at, Some(NOW));
        assert_eq!(ride.state, RideState::Completed);
    }

    #[test]
    fn another_driver_cannot_move_a_ride() {
        let (mut ride, driver_id) = (requested(), Uuid::now_v7());
        ride.apply(found(driver_id), NOW);
        let before = ride.clone();
        for change in changes(Uuid::now_v7()) {
            if matches!(change, Change::Cancel) {
                continue;
            }
            assert_eq!(ride.apply(change, NOW), Outcome::Refused);
        }
        assert_eq!(ride, before);
    }

    #[test]
    fn a_state_keeps_its_name() {
        for state in RideState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("flying".parse::<RideState>().is_err());
    }
}
