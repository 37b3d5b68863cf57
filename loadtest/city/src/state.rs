//! The part of a living city that others read: its server, the check of its truth, a comparison.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use marketplace::backtest::Pickup;
use marketplace::{Bounds, DemandProfile};
use tokio::sync::mpsc;

use crate::clock::CityClock;
use crate::counters::{CityProgress, Counters};
use crate::crowd::Crowd;
use crate::ground_truth::GroundTruth;
use crate::market_truth::{MarketTruth, ZoneTruth};
use crate::rider::TripSampler;
use crate::target::Target;

/// Drivers by default. With 210 the bundled evening is scarce: from 16:00 to midnight 47 % of the
/// quotes are above 1.0, and the mean multiplier is 1.16. With 240 drivers it is 28 % and 1.08.
pub const DEFAULT_FLEET: usize = 210;

/// The settings of a city.
#[derive(Debug, Clone)]
pub struct CityConfig {
    /// The services to use.
    pub target: Target,
    /// Decides who the drivers and riders are and what they want.
    pub seed: u64,
    /// The number of drivers.
    pub fleet: usize,
    /// The demand profile of ride-management: the ground truth must forecast from the same.
    pub profile: DemandProfile,
    /// The record to replay. The city leaves out pickups outside the service area.
    pub pickups: Vec<Pickup>,
    /// The service area of the services.
    pub service_area: Bounds,
    /// Riders in addition to the record.
    pub crowds: Vec<Crowd>,
}

/// What others may know of a living city.
#[derive(Debug)]
pub(crate) struct CityState {
    pub(crate) target: Target,
    pub(crate) seed: u64,
    pub(crate) fleet: usize,
    pub(crate) clock: CityClock,
    pub(crate) truth: Arc<GroundTruth>,
    pub(crate) trips: TripSampler,
    counters: Mutex<Counters>,
    distrust: Mutex<Distrust>,
    crowds: mpsc::UnboundedSender<Crowd>,
}

/// Why the ground truth cannot be trusted.
#[derive(Debug, Default)]
struct Distrust {
    at_start: Vec<String>,
    now: Vec<String>,
    /// At any time since the start.
    ever: BTreeSet<String>,
}

impl CityState {
    /// The state of a city that is about to live, and where its new crowds arrive.
    pub(crate) fn new(
        config: &CityConfig,
        clock: CityClock,
        truth: Arc<GroundTruth>,
        trips: TripSampler,
        distrust: Vec<String>,
    ) -> (Self, mpsc::UnboundedReceiver<Crowd>) {
        let (crowds, new_crowds) = mpsc::unbounded_channel();
        let state = Self {
            target: config.target.clone(),
            seed: config.seed,
            fleet: config.fleet,
            clock,
            truth,
            trips,
            counters: Mutex::default(),
            distrust: Mutex::new(Distrust {
                ever: distrust.iter().cloned().collect(),
                at_start: distrust,
                now: Vec::new(),
            }),
            crowds,
        };
        (state, new_crowds)
    }

    /// The counts so far.
    pub(crate) fn progress(&self) -> CityProgress {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.progress(self.clock.now())
    }

    /// The whole market as it is now.
    pub(crate) fn market_truth(&self) -> MarketTruth {
        let now = self.clock.now();
        let levels = self.truth.levels(self.truth.area().zones(), now);
        let multipliers = self.truth.multipliers_of(&levels);
        let zones = levels.iter().filter_map(|levels| {
            Some(ZoneTruth {
                zone: levels.zone,
                surge_multiplier: *multipliers.get(&levels.zone)?,
                supply: levels.supply?.value,
                demand: levels.demand?.value,
            })
        });
        let distrust = self.distrust();
        let reasons = [&distrust.at_start[..], &distrust.now[..]].concat();
        MarketTruth {
            market_time: now,
            seed: self.seed,
            fleet: self.fleet,
            trusted: reasons.is_empty(),
            distrust: reasons,
            zones: zones.collect(),
            progress: self.progress(),
        }
    }

    /// Replaces the reasons of the running check.
    pub(crate) fn set_distrust(&self, reasons: Vec<String>) {
        let mut distrust = self.distrust();
        distrust.ever.extend(reasons.iter().cloned());
        distrust.now = reasons;
    }

    /// Adds riders in addition to the record.
    pub(crate) fn add_crowd(&self, crowd: Crowd) {
        // A city that has ended has no use for riders.
        let _ = self.crowds.send(crowd);
    }

    /// Why the ground truth could not be trusted at any time since the start.
    pub(crate) fn distrust_ever(&self) -> Vec<String> {
        self.distrust().ever.iter().cloned().collect()
    }

    /// Replaces the counts.
    pub(crate) fn set_counters(&self, counters: Counters) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }

    fn distrust(&self) -> MutexGuard<'_, Distrust> {
        self.distrust.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
