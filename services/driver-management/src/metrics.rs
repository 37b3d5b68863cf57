//! What driver-management tells Prometheus about itself: how many drivers are in each status and what each zone can count
//! on, counted when asked, and how dispatches ended.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
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
    /// Registers `surge_dispatches_total{outcome}`, with every outcome at zero: a counter that is missing cannot be told from
    /// one that does not count.
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
    registry.register_collector(Box::new(DriversByStatus(fleet)));
}

#[derive(Debug)]
struct DriversByStatus(Arc<Fleet>);

impl Collector for DriversByStatus {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Drivers by status";
        let mut drivers =
            encoder.encode_descriptor("surge_drivers", help, None, MetricType::Gauge)?;
        for (status, count) in self.0.counts() {
            let gauge = ConstGauge::new(count as i64);
            gauge.encode(drivers.encode_family(&[("status", status.as_str())])?)?;
        }
        Ok(())
    }
}

/// Registers `surge_zone_supply{zone}` and `surge_zone_idle_drivers{zone}`.
pub fn register_supply(registry: &mut Registry, app: App) {
    registry.register_collector(Box::new(SupplyByZone(app)));
}

#[derive(Debug)]
struct SupplyByZone(App);

impl Collector for SupplyByZone {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let zones = self.0.supply_everywhere().zones;
        let name = "surge_zone_supply";
        let help = "Drivers available in a zone within the window, as predicted";
        let mut supply = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for level in &zones {
            let gauge = ConstGauge::new(level.predicted);
            gauge.encode(supply.encode_family(&[("zone", level.zone.to_string())])?)?;
        }
        let name = "surge_zone_idle_drivers";
        let help = "Idle drivers in a zone";
        let mut idle = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for level in &zones {
            let gauge = ConstGauge::new(level.idle as i64);
            gauge.encode(idle.encode_family(&[("zone", level.zone.to_string())])?)?;
        }
        Ok(())
    }
}
