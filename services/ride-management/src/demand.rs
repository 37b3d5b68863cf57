//! Demand as this process counts it: a forecaster in memory, fed after each commit with the very
//! instant of the row, so that it equals, to the last bit, one that is built anew from the table,
//! and that of every other replica.
//!
//! The requests that other replicas took are counted as soon as the journal tells of them, each
//! once. What is told is no newer than what was heard of all of them.
//!
//! Two things can part the two: a commit whose answer was lost, and a count made while rows are
//! still coming in. The first puts the count in doubt until it was made again after that commit has
//! ended one way or the other; against the second, whoever commits a request holds
//! [`Demand::counting`] until it is recorded, and a new count waits for them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
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

/// How long a request waits while demand is counted anew. A count takes a fraction of it, unless
/// the database hangs.
const RECOUNT_PATIENCE: Duration = Duration::from_secs(1);

/// The demand of the whole service area.
#[derive(Debug)]
pub struct Demand {
    /// A std mutex: it is held for a computation of microseconds, never across an await.
    forecaster: Mutex<DemandForecaster>,
    /// What a new count starts from: profile, zones and `observed_since`, without a single request.
    nothing_seen: DemandForecaster,
    observed_since: MarketTime,
    counting: RwLock<()>,
    in_doubt: AtomicBool,
    /// Market milliseconds up to which other replicas were heard; the end of time while there are
    /// none.
    heard_until: AtomicI64,
}

/// The demand of a zone, and what it was forecast from: of one instant.
#[derive(Clone, Debug, PartialEq)]
pub struct DemandReading {
    /// Expected requests in the coming window.
    pub level: Level,
    /// Since when requests are counted.
    pub observed_since: MarketTime,
    /// Start and requests of each window that had any, oldest first; none older than the memory of
    /// the forecaster.
    pub windows: Vec<(MarketTime, u32)>,
}

impl Demand {
    /// Demand of `area` as of the counts given, observed since `observed_since`.
    pub fn from_counts(
        profile: DemandProfile,
        area: &ServiceArea,
        window: Duration,
        observed_since: MarketTime,
        counts: &[WindowCount],
    ) -> Self {
        let nothing_seen = DemandForecaster::new(
            Arc::new(profile),
            area.zones(),
            window,
            observed_since,
            FilterSettings::default(),
        );
        Self {
            forecaster: Mutex::new(counted(&nothing_seen, counts)),
            nothing_seen,
            observed_since,
            counting: RwLock::new(()),
            in_doubt: AtomicBool::new(false),
            heard_until: AtomicI64::new(i64::MAX),
        }
    }

    /// Takes in one committed request.
    pub fn record(&self, zone: Zone, at: MarketTime) {
        self.forecaster().record(zone, at);
    }

    /// Other replicas were heard up to then, and what they took is recorded.
    pub fn heard(&self, peers_as_of: Option<MarketTime>) {
        let until = peers_as_of.map_or(i64::MAX, MarketTime::millis);
        self.heard_until.store(until, Ordering::Release);
    }

    /// As of when demand is known at `now`.
    pub fn known_at(&self, now: MarketTime) -> MarketTime {
        now.min(MarketTime::from_millis(
            self.heard_until.load(Ordering::Acquire),
        ))
    }

    /// Expected requests of the zones in the window after `now`, in their order and from one state
    /// of knowledge.
    pub fn levels(&self, zones: &[Zone], now: MarketTime) -> Vec<Level> {
        let forecasts = self.forecaster().forecasts(zones, now);
        let level = |value| Level { value, as_of: now };
        forecasts.into_iter().map(level).collect()
    }

    /// Expected requests of one zone in the window after `now`, with the counts that the forecast
    /// is made from.
    pub fn reading(&self, zone: Zone, now: MarketTime) -> DemandReading {
        let mut forecaster = self.forecaster();
        let value = forecaster.forecast(zone, now);
        DemandReading {
            level: Level { value, as_of: now },
            observed_since: self.observed_since,
            windows: forecaster.counts(zone, now),
        }
    }

    /// To be held from before a request is committed until it is recorded.
    ///
    /// # Errors
    /// [`Error::Recounting`], after a second.
    pub async fn counting(&self) -> Result<RwLockReadGuard<'_, ()>, Error> {
        let waited = timeout(RECOUNT_PATIENCE, self.counting.read()).await;
        waited.map_err(|_| Error::Recounting)
    }

    /// The answer to a commit was lost: the request counts or it does not.
    pub fn doubt(&self) {
        self.in_doubt.store(true, Ordering::Relaxed);
    }

    /// Whether there was such a commit since this was asked last.
    pub fn take_doubt(&self) -> bool {
        self.in_doubt.swap(false, Ordering::Relaxed)
    }

    /// Waits until every commit under way is recorded, and keeps new ones waiting. To be held while
    /// the table is counted, until [`recounted`](Self::recounted).
    pub async fn recounting(&self) -> RwLockWriteGuard<'_, ()> {
        self.counting.write().await
    }

    /// Replaces what was counted.
    pub fn recounted(&self, counts: &[WindowCount]) {
        *self.forecaster() = counted(&self.nothing_seen, counts);
    }

    /// A panic under this lock would have to come from arithmetic on counts; what they hold stays
    /// usable.
    fn forecaster(&self) -> MutexGuard<'_, DemandForecaster> {
        self.forecaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn counted(nothing_seen: &DemandForecaster, counts: &[WindowCount]) -> DemandForecaster {
    let mut forecaster = nothing_seen.clone();
    for count in counts {
        forecaster.record_count(count.zone, count.window_start, count.requests);
    }
    forecaster
}
