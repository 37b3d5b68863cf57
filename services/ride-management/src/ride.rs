//! A ride and its life: a pure state machine, the only place that decides what may follow what.
//! Ids, times and trace contexts come in as arguments. The store applies the machine to a locked
//! row, and no other code changes a ride.
//!
//! ```text
//!                 given back
//!       ┌────────────┐
//!       ▼            │
//!   requested ──▶ matched ──▶ picked_up ──▶ completed
//!     │   │          │
//!     │   └──────────┴──────▶ cancelled
//!     └─────────────────────▶ unserved
//! ```
//!
//! Pickups and drop-offs arrive as events, which may be repeated or overtake each other, so a later
//! stage also completes the earlier ones. Every change is idempotent.
//!
//! A driver who declines, leaves or is long overdue gives the ride back, and it is dispatched anew,
//! at once and to somebody else. When nobody is near, it ends unserved.
//!
//! A state can leave a *pending call* to driver-management: `requested` waits for a dispatch, and
//! `cancelled` or `unserved` for the release of a driver who may have been sent.

use std::{fmt, str::FromStr};

use marketplace::{
    quote::Quote,
    surge::Multiplier,
    time::MarketTime,
    zone::{Position, Zone},
};
use serde::Serialize;
use uuid::Uuid;

/// A ride, from its request to its end. All times are market time.
#[derive(Clone, Debug, PartialEq)]
pub struct Ride {
    /// Identifies the ride.
    pub ride_id: Uuid,
    /// The rider.
    pub rider_id: Uuid,
    /// The quote that was redeemed for it.
    pub quote_id: Uuid,
    /// Its state.
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
    /// The last driver who gave it back.
    pub given_back_by: Option<Uuid>,
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
    /// When it was completed or cancelled, or found no driver.
    pub ended_at: Option<MarketTime>,
    /// The call to driver-management that has not succeeded yet.
    pub pending_call: Option<SupplyCall>,
    /// Trace context of the request.
    pub traceparent: Option<String>,
}

/// The state of a ride.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
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

/// A call to driver-management.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupplyCall {
    /// Send a driver.
    Dispatch,
    /// Free the driver who was sent, or may have been: the answer to a dispatch can get lost.
    Release,
}

/// A driver who was sent to a ride.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatchedDriver {
    /// The driver.
    pub driver_id: Uuid,
    /// When the driver is expected at the pickup.
    pub pickup_due_at: MarketTime,
    /// When the driver is expected at the drop-off.
    pub dropoff_due_at: MarketTime,
}

/// Something that happens to a ride.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RideChange {
    /// A driver was sent.
    Match(MatchedDriver),
    /// driver-management has no driver near.
    NobodyNear,
    /// driver-management did not answer for too long.
    PatienceOver,
    /// The driver gave the ride back: it needs another.
    GiveBack {
        /// The driver.
        driver_id: Uuid,
    },
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
pub enum ChangeOutcome {
    /// The ride entered a new state.
    Moved,
    /// The ride was there already: a repeat.
    Unmoved,
    /// The state of the ride forbids the change.
    Refused,
}

impl Ride {
    /// A ride as requested: at the price and between the points of its quote, with a pending
    /// dispatch.
    pub fn request(
        ride_id: Uuid,
        rider_id: Uuid,
        quote: &Quote,
        zone: Zone,
        now: MarketTime,
        traceparent: Option<String>,
    ) -> Self {
        Self {
            ride_id,
            rider_id,
            quote_id: quote.quote_id,
            state: RideState::Requested,
            zone,
            pickup: quote.pickup,
            dropoff: quote.dropoff,
            fare_cents: quote.fare_cents,
            multiplier: quote.multiplier,
            driver_id: None,
            given_back_by: None,
            requested_at: now,
            matched_at: None,
            pickup_due_at: None,
            dropoff_due_at: None,
            picked_up_at: None,
            ended_at: None,
            pending_call: Some(SupplyCall::Dispatch),
            traceparent,
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

    /// Applies a change at `now`.
    pub fn apply(&mut self, change: RideChange, now: MarketTime) -> ChangeOutcome {
        match change {
            RideChange::Match(driver) => self.matched(driver, now),
            RideChange::NobodyNear => self.not_served(None, now),
            RideChange::PatienceOver => self.not_served(Some(SupplyCall::Release), now),
            RideChange::GiveBack { driver_id } => self.given_back(driver_id),
            RideChange::Cancel => self.cancelled(now),
            RideChange::PickUp { driver_id, at } => self.picked_up(driver_id, at),
            RideChange::DropOff { driver_id, at } => self.dropped_off(driver_id, at),
        }
    }

    fn matched(&mut self, driver: MatchedDriver, now: MarketTime) -> ChangeOutcome {
        match self.state {
            // The answer was overtaken; the dispatcher asks again.
            RideState::Requested if self.given_back_by == Some(driver.driver_id) => {
                ChangeOutcome::Refused
            }
            RideState::Requested => {
                self.driver_id = Some(driver.driver_id);
                self.pickup_due_at = Some(driver.pickup_due_at);
                self.dropoff_due_at = Some(driver.dropoff_due_at);
                self.matched_at = Some(now);
                self.moved_to(RideState::Matched, None)
            }
            // The ride ended while the driver was being found.
            RideState::Cancelled | RideState::Unserved => {
                self.pending_call = Some(SupplyCall::Release);
                ChangeOutcome::Refused
            }
            _ if self.is_driven_by(driver.driver_id) => ChangeOutcome::Unmoved,
            _ => ChangeOutcome::Refused,
        }
    }

    fn not_served(&mut self, pending_call: Option<SupplyCall>, now: MarketTime) -> ChangeOutcome {
        match self.state {
            RideState::Requested => self.ended(RideState::Unserved, pending_call, now),
            RideState::Unserved => ChangeOutcome::Unmoved,
            _ => ChangeOutcome::Refused,
        }
    }

    fn given_back(&mut self, driver_id: Uuid) -> ChangeOutcome {
        match self.state {
            RideState::Matched if self.is_driven_by(driver_id) => {
                self.given_back_by = Some(driver_id);
                self.driver_id = None;
                self.matched_at = None;
                self.pickup_due_at = None;
                self.dropoff_due_at = None;
                self.moved_to(RideState::Requested, Some(SupplyCall::Dispatch))
            }
            // The answer to the dispatch is still on its way.
            RideState::Requested => {
                self.given_back_by = Some(driver_id);
                ChangeOutcome::Unmoved
            }
            // The ride ended, or has another driver: a repeat.
            _ => ChangeOutcome::Unmoved,
        }
    }

    fn cancelled(&mut self, now: MarketTime) -> ChangeOutcome {
        match self.state {
            // A requested ride too: its dispatch may be under way at this very moment.
            RideState::Requested | RideState::Matched => {
                self.ended(RideState::Cancelled, Some(SupplyCall::Release), now)
            }
            RideState::Cancelled => ChangeOutcome::Unmoved,
            _ => ChangeOutcome::Refused,
        }
    }

    fn picked_up(&mut self, driver_id: Uuid, at: MarketTime) -> ChangeOutcome {
        match self.state {
            RideState::Requested | RideState::Matched if self.is_driven_by(driver_id) => {
                self.driver_id = Some(driver_id);
                self.picked_up_at = Some(at);
                self.moved_to(RideState::PickedUp, None)
            }
            RideState::PickedUp | RideState::Completed if self.is_driven_by(driver_id) => {
                self.picked_up_at.get_or_insert(at);
                ChangeOutcome::Unmoved
            }
            _ => ChangeOutcome::Refused,
        }
    }

    fn dropped_off(&mut self, driver_id: Uuid, at: MarketTime) -> ChangeOutcome {
        match self.state {
            RideState::Requested | RideState::Matched | RideState::PickedUp
                if self.is_driven_by(driver_id) =>
            {
                self.driver_id = Some(driver_id);
                self.ended(RideState::Completed, None, at)
            }
            RideState::Completed if self.is_driven_by(driver_id) => ChangeOutcome::Unmoved,
            _ => ChangeOutcome::Refused,
        }
    }

    /// A ride without a driver may be any driver's: the answer with the driver can get lost.
    fn is_driven_by(&self, driver_id: Uuid) -> bool {
        self.driver_id.is_none_or(|known| known == driver_id)
    }

    fn ended(
        &mut self,
        state: RideState,
        pending_call: Option<SupplyCall>,
        at: MarketTime,
    ) -> ChangeOutcome {
        self.ended_at = Some(at);
        self.moved_to(state, pending_call)
    }

    fn moved_to(&mut self, state: RideState, pending_call: Option<SupplyCall>) -> ChangeOutcome {
        self.state = state;
        self.pending_call = pending_call;
        ChangeOutcome::Moved
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
        Ride::request(
            Uuid::now_v7(),
            Uuid::now_v7(),
            &quote,
            quote.zone,
            NOW,
            None,
        )
    }

    fn found(driver_id: Uuid) -> RideChange {
        RideChange::Match(MatchedDriver {
            driver_id,
            pickup_due_at: NOW,
            dropoff_due_at: LATER,
        })
    }

    /// Everything that can happen to a ride with one driver.
    fn changes(driver_id: Uuid) -> [RideChange; 7] {
        [
            found(driver_id),
            RideChange::NobodyNear,
            RideChange::PatienceOver,
            RideChange::GiveBack { driver_id },
            RideChange::Cancel,
            RideChange::PickUp { driver_id, at: NOW },
            RideChange::DropOff {
                driver_id,
                at: LATER,
            },
        ]
    }

    /// Walks through every sequence of changes up to `depth` and shows each step to `check`.
    fn walk(ride: &Ride, depth: usize, driver: Uuid, check: &impl Fn(&Ride, &Ride, ChangeOutcome)) {
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
    fn ride_goes_from_request_to_completion() {
        let (mut ride, driver_id) = (requested(), Uuid::now_v7());
        assert_eq!(ride.apply(found(driver_id), NOW), ChangeOutcome::Moved);
        assert_eq!((ride.state, ride.pending_call), (RideState::Matched, None));
        let pick_up = RideChange::PickUp { driver_id, at: NOW };
        assert_eq!(ride.apply(pick_up, NOW), ChangeOutcome::Moved);
        let drop_off = RideChange::DropOff {
            driver_id,
            at: LATER,
        };
        assert_eq!(ride.apply(drop_off, NOW), ChangeOutcome::Moved);
        assert_eq!(ride.state, RideState::Completed);
        assert_eq!(ride.entered_state_at(), LATER);
    }

    #[test]
    fn no_sequence_but_giving_back_leads_back() {
        let rank = |state: RideState| RideState::ALL.iter().position(|other| *other == state);
        walk(
            &requested(),
            5,
            Uuid::now_v7(),
            &|before, after, outcome| {
                assert_eq!(outcome == ChangeOutcome::Moved, before.state != after.state);
                let is_given_back =
                    (before.state, after.state) == (RideState::Matched, RideState::Requested);
                assert!(is_given_back || rank(after.state) >= rank(before.state));
                if before.ended_at.is_some() {
                    assert_ne!(outcome, ChangeOutcome::Moved, "{} is an end", before.state);
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
    fn repeated_change_changes_nothing() {
        walk(&requested(), 3, Uuid::now_v7(), &|_, ride, _| {
            for change in changes(ride.driver_id.unwrap_or(Uuid::nil())) {
                let mut once = ride.clone();
                once.apply(change, NOW);
                let mut twice = once.clone();
                assert_ne!(twice.apply(change, NOW), ChangeOutcome::Moved);
                assert_eq!(once, twice);
            }
        });
    }

    #[test]
    fn pending_call_fits_the_state() {
        walk(&requested(), 5, Uuid::now_v7(), &|_, ride, _| {
            let possible: &[Option<SupplyCall>] = match ride.state {
                RideState::Requested => &[Some(SupplyCall::Dispatch)],
                RideState::Cancelled => &[Some(SupplyCall::Release)],
                RideState::Unserved => &[Some(SupplyCall::Release), None],
                _ => &[None],
            };
            assert!(possible.contains(&ride.pending_call), "{ride:?}");
        });
    }

    #[test]
    fn late_driver_is_to_be_released() {
        let mut ride = requested();
        ride.apply(RideChange::NobodyNear, NOW);
        assert_eq!(ride.pending_call, None);
        assert_eq!(
            ride.apply(found(Uuid::now_v7()), NOW),
            ChangeOutcome::Refused
        );
        assert_eq!(ride.pending_call, Some(SupplyCall::Release));
    }

    #[test]
    fn drop_off_may_overtake_the_pickup() {
        let (mut ride, driver_id) = (requested(), Uuid::now_v7());
        let drop_off = RideChange::DropOff {
            driver_id,
            at: LATER,
        };
        assert_eq!(ride.apply(drop_off, LATER), ChangeOutcome::Moved);
        assert_eq!(ride.driver_id, Some(driver_id));
        let pick_up = RideChange::PickUp { driver_id, at: NOW };
        assert_eq!(ride.apply(pick_up, LATER), ChangeOutcome::Unmoved);
        assert_eq!(ride.picked_up_at, Some(NOW));
        assert_eq!(ride.state, RideState::Completed);
    }

    #[test]
    fn another_driver_cannot_move_a_ride() {
        let (mut ride, driver_id) = (requested(), Uuid::now_v7());
        ride.apply(found(driver_id), NOW);
        let before = ride.clone();
        for change in changes(Uuid::now_v7()) {
            if matches!(change, RideChange::Cancel) {
                continue;
            }
            assert_ne!(ride.apply(change, NOW), ChangeOutcome::Moved);
        }
        assert_eq!(ride, before);
    }

    #[test]
    fn state_keeps_its_name() {
        for state in RideState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("flying".parse::<RideState>().is_err());
    }

    #[test]
    fn late_answer_does_not_match_again() {
        let mut ride = requested();
        let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
        let gives_back = RideChange::GiveBack { driver_id: first };
        assert_eq!(ride.apply(gives_back, NOW), ChangeOutcome::Unmoved);
        assert_eq!(ride.apply(found(first), NOW), ChangeOutcome::Refused);
        assert_eq!(ride.pending_call, Some(SupplyCall::Dispatch), "asked again");
        assert_eq!(ride.apply(found(second), NOW), ChangeOutcome::Moved);
        assert_eq!(
            ride.apply(gives_back, NOW),
            ChangeOutcome::Unmoved,
            "a repeat"
        );
        assert_eq!(ride.driver_id, Some(second));
    }
}
