//! What driver-management tells Prometheus about itself: how many drivers are in each status, counted when asked, and
//! how dispatches ended.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};

use crate::{error::Error, fleet::Fleet, store::Dispatch};

/// Counts dispatches by outcome.
#[derive(Clone, Debug, Default)]
pub struct Dispatches(Family<OutcomeLabel, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

impl Dispatches {
    /// Registers `surge_dispatches_total{outcome}`.
    pub fn register(registry: &mut Registry) -> Self {
        let dispatches = Self::default();
        let help = "Dispatches by how they ended";
        registry.register("surge_dispatches", help, dispatches.0.clone());
        dispatches
    }

    /// One more dispatch was answered so.
    pub fn count(&self, answer: &Result<Option<Dispatch>, Error>) {
        let outcome = match answer {
            Ok(Some(_)) => "sent",
            Ok(None) => "nobody_near",
            Err(Error::RideReleased(_)) => "refused",
            Err(_) => "failed",
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
