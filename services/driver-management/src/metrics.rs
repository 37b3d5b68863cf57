//! The metrics of this service: dispatches by outcome, and gauges that are read when Prometheus
//! scrapes. `lib.rs` registers all of them; a gauge gets the function that reads its value.

use marketplace::{supply::DriverStatus, zone::Zone};
use platform::metrics::on_scrape;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::{error::Error, fleet::SupplySnapshot, store::Dispatch};

/// Counts dispatches by outcome.
#[derive(Clone, Debug, Default)]
pub struct DispatchMetrics(Family<DispatchLabel, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DispatchLabel {
    outcome: &'static str,
}

const SENT: &str = "sent";
const NOBODY_NEAR: &str = "nobody_near";
const REFUSED: &str = "refused";
const FAILED: &str = "failed";

impl DispatchMetrics {
    /// Registers `surge_dispatches_total{outcome}`, with every outcome at zero, so that a counter
    /// that is missing means a fault.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let dispatches = Self::default();
        for outcome in [SENT, NOBODY_NEAR, REFUSED, FAILED] {
            drop(dispatches.0.get_or_create(&DispatchLabel { outcome }));
        }
        let help = "Dispatches by how they ended";
        registry.register("surge_dispatches", help, dispatches.0.clone());
        dispatches
    }

    /// Counts one dispatch that ended with this answer; `None` where its caller gave up.
    pub(crate) fn count(&self, answer: Option<&Result<Option<Dispatch>, Error>>) {
        let outcome = match answer {
            Some(Ok(Some(_))) => SENT,
            Some(Ok(None)) => NOBODY_NEAR,
            Some(Err(Error::RideReleased(_))) => REFUSED,
            Some(Err(_)) | None => FAILED,
        };
        self.0.get_or_create(&DispatchLabel { outcome }).inc();
    }
}

/// Registers `surge_drivers{status}`.
pub(crate) fn register_drivers<I>(
    registry: &mut Registry,
    counts: impl Fn() -> I + Send + Sync + 'static,
) where
    I: Iterator<Item = (DriverStatus, usize)>,
{
    on_scrape(registry, move |scrape| {
        let counts = counts();
        let rows = counts.map(|(status, count)| ([("status", status.as_str())], count as i64));
        scrape.gauges("surge_drivers", "Drivers by status", rows);
    });
}

/// Registers `surge_zone_supply{zone}` and `surge_zone_idle_drivers{zone}`.
pub(crate) fn register_supply(
    registry: &mut Registry,
    supply: impl Fn() -> SupplySnapshot + Send + Sync + 'static,
) {
    on_scrape(registry, move |scrape| {
        let zones = supply().zones;
        let label = |zone: Zone| [("zone", zone.to_string())];
        let help = "Drivers available in a zone within the window, as predicted";
        let rows = zones.iter().map(|zone| (label(zone.zone), zone.predicted));
        scrape.gauges("surge_zone_supply", help, rows);
        let rows = zones
            .iter()
            .map(|zone| (label(zone.zone), zone.idle as i64));
        scrape.gauges("surge_zone_idle_drivers", "Idle drivers in a zone", rows);
    });
}
