//! What driver-management tells Prometheus about itself: how many drivers are in each status and
//! what each zone can count on, counted when asked, and how dispatches ended.

use std::sync::Arc;

use marketplace::zone::Zone;
use platform::metrics::on_scrape;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::{app::App, error::Error, fleet::Fleet, store::Dispatch};

/// Counts dispatches by outcome.
#[derive(Clone, Debug, Default)]
pub struct Dispatches(Family<OutcomeLabel, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

const SENT: &str = "sent";
const NOBODY_NEAR: &str = "nobody_near";
const REFUSED: &str = "refused";
const FAILED: &str = "failed";

impl Dispatches {
    /// Registers `surge_dispatches_total{outcome}`, with every outcome at zero: a counter that is
    /// missing cannot be told from one that does not count.
    pub fn register(registry: &mut Registry) -> Self {
        let dispatches = Self::default();
        for outcome in [SENT, NOBODY_NEAR, REFUSED, FAILED] {
            drop(dispatches.0.get_or_create(&OutcomeLabel { outcome }));
        }
        let help = "Dispatches by how they ended";
        registry.register("surge_dispatches", help, dispatches.0.clone());
        dispatches
    }

    /// One more dispatch was answered so.
    pub fn count(&self, answer: &Result<Option<Dispatch>, Error>) {
        let outcome = match answer {
            Ok(Some(_)) => SENT,
            Ok(None) => NOBODY_NEAR,
            Err(Error::RideReleased(_)) => REFUSED,
            Err(_) => FAILED,
        };
        self.0.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

/// Registers `surge_drivers{status}`.
pub fn register_drivers(registry: &mut Registry, fleet: Arc<Fleet>) {
    on_scrape(registry, move |scrape| {
        let counts = fleet.counts().into_iter();
        let rows = counts.map(|(status, count)| ([("status", status.as_str())], count as i64));
        scrape.gauges("surge_drivers", "Drivers by status", rows);
    });
}

/// Registers `surge_zone_supply{zone}` and `surge_zone_idle_drivers{zone}`.
pub fn register_supply(registry: &mut Registry, app: App) {
    on_scrape(registry, move |scrape| {
        let zones = app.supply_everywhere().zones;
        let label = |zone: Zone| [("zone", zone.to_string())];
        let help = "Drivers available in a zone within the window, as predicted";
        let rows = zones
            .iter()
            .map(|level| (label(level.zone), level.predicted));
        scrape.gauges("surge_zone_supply", help, rows);
        let rows = zones
            .iter()
            .map(|level| (label(level.zone), level.idle as i64));
        scrape.gauges("surge_zone_idle_drivers", "Idle drivers in a zone", rows);
    });
}
