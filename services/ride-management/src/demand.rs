//! Demand as this replica knows it: a forecaster in memory that counts every committed request.
//!
//! # How this works
//!
//! The forecaster records a request after its commit, with the very time that the row has, so that
//! it equals, to the last bit, a forecaster rebuilt from the table, and that of every other
//! replica. The requests of other replicas arrive by the change log (`demand_follower`), each once.
//!
//! Memory and table can differ in two cases, and each ends in a recount of the table:
//!
//! ```text
//!   a commit without an answer          the request counts, or it does not: in doubt
//!     request ── COMMIT ── ✗ timeout ──▶ mark_in_doubt ──▶ recount until the doubt is over
//!
//!   a recount beside commits            must not miss a request, nor count it twice
//!     request ── commit_guard ── COMMIT ── record ──┐
//!                                                   └─▶ recount_guard ── read the table ──▶
//! ```
//!
//! The guards are a lock for readers and writers: any number of requests may commit at the same
//! time, but none while the table is counted.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use marketplace::{
    demand::{DemandForecaster, DemandProfile, FilterSettings},
    time::MarketTime,
    view::Level,
    zone::{ServiceArea, Zone},
};
use tokio::{
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::timeout,
};

use crate::{error::Error, store::WindowCount};

/// How long a request waits for a recount, which takes a fraction of it unless the database hangs.
const RECOUNT_PATIENCE: Duration = Duration::from_secs(1);

/// The demand of the whole service area.
#[derive(Debug)]
pub struct DemandTracker {
    // A std mutex: it is locked for a computation of microseconds, never across an await.
    state: Mutex<DemandState>,
    /// What a recount starts from: profile, zones and `observed_since`, without a request.
    without_requests: DemandForecaster,
    observed_since: MarketTime,
    guard: RwLock<()>,
}

#[derive(Debug)]
struct DemandState {
    forecaster: DemandForecaster,
    /// Up to when this replica has read what the others accepted; `None` while there is no other.
    peers_as_of: Option<MarketTime>,
    /// Whether a commit came into doubt since the follower asked last.
    has_new_doubt: bool,
}

/// The demand of a zone and the counts that it is forecast from, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneDemand {
    /// Expected requests in the coming window.
    pub level: Level,
    /// Since when requests are counted.
    pub observed_since: MarketTime,
    /// Start and requests of each window that had any, oldest first; none older than the memory of
    /// the forecaster.
    pub windows: Vec<(MarketTime, u32)>,
}

impl DemandTracker {
    /// Demand of `area` in windows of `window`, observed since `observed_since`, without requests.
    pub fn new(
        profile: DemandProfile,
        area: &ServiceArea,
        window: Duration,
        observed_since: MarketTime,
    ) -> Self {
        let without_requests = DemandForecaster::new(
            Arc::new(profile),
            area.zones(),
            window,
            observed_since,
            FilterSettings::default(),
        );
        let state = DemandState {
            forecaster: without_requests.clone(),
            peers_as_of: None,
            has_new_doubt: false,
        };
        Self {
            state: Mutex::new(state),
            without_requests,
            observed_since,
            guard: RwLock::new(()),
        }
    }

    /// Records a committed request.
    pub fn record(&self, zone: Zone, at: MarketTime) {
        self.lock().forecaster.record(zone, at);
    }

    /// All requests that other replicas accepted up to this moment are recorded.
    pub fn set_peers_as_of(&self, peers_as_of: Option<MarketTime>) {
        self.lock().peers_as_of = peers_as_of;
    }

    /// Up to when demand is known at `now`.
    pub fn known_at(&self, now: MarketTime) -> MarketTime {
        let peers_as_of = self.lock().peers_as_of;
        peers_as_of.map_or(now, |peers| peers.min(now))
    }

    /// Expected requests of each of the zones in the window after `now`, in their order.
    pub fn levels(&self, zones: &[Zone], now: MarketTime) -> Vec<Level> {
        let forecasts = self.lock().forecaster.forecasts(zones, now);
        let level = |value| Level { value, as_of: now };
        forecasts.into_iter().map(level).collect()
    }

    /// Expected requests of one zone in the window after `now`, with the counts behind them.
    pub fn zone(&self, zone: Zone, now: MarketTime) -> ZoneDemand {
        let mut state = self.lock();
        let value = state.forecaster.forecast(zone, now);
        ZoneDemand {
            level: Level { value, as_of: now },
            observed_since: self.observed_since,
            windows: state.forecaster.counts(zone, now),
        }
    }

    /// A request holds this guard from before its commit until it is recorded.
    ///
    /// # Errors
    /// [`Error::Recounting`], after a second.
    pub async fn commit_guard(&self) -> Result<RwLockReadGuard<'_, ()>, Error> {
        let waited = timeout(RECOUNT_PATIENCE, self.guard.read()).await;
        waited.map_err(|_| Error::Recounting)
    }

    /// Waits until every commit under way is recorded. A recount holds this guard, which keeps new
    /// commits waiting, until [`replace_counts`](Self::replace_counts).
    pub async fn recount_guard(&self) -> RwLockWriteGuard<'_, ()> {
        self.guard.write().await
    }

    /// Replaces all counts.
    pub fn replace_counts(&self, counts: &[WindowCount]) {
        let mut forecaster = self.without_requests.clone();
        for count in counts {
            forecaster.record_count(count.zone, count.window_start, count.requests);
        }
        self.lock().forecaster = forecaster;
    }

    /// Reports a commit whose outcome is unknown.
    pub fn mark_in_doubt(&self) {
        self.lock().has_new_doubt = true;
    }

    /// Whether a commit came into doubt since the last call.
    pub fn take_new_doubt(&self) -> bool {
        std::mem::take(&mut self.lock().has_new_doubt)
    }

    /// Only arithmetic on counts could panic under this lock, and it would leave them usable.
    fn lock(&self) -> MutexGuard<'_, DemandState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
