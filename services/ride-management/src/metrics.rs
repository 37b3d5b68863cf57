//! Metrics of the service's own; those of the edges are in `platform`.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};

use crate::{app::App, ride::RideState};

/// Rides, counted by the states that they entered since the start of the process.
#[derive(Clone, Debug, Default)]
pub struct RideMetrics {
    rides: Family<StateLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

impl RideMetrics {
    /// Registers `surge_rides_total`, with every state at zero: a counter that is missing cannot be told from one
    /// that does not count.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for state in RideState::ALL {
            metrics.of(state);
        }
        registry.register(
            "surge_rides",
            "Rides that entered a state",
            metrics.rides.clone(),
        );
        metrics
    }

    /// A ride entered `state`.
    pub fn entered(&self, state: RideState) {
        self.of(state).inc();
    }

    fn of(&self, state: RideState) -> Counter {
        let label = StateLabel {
            state: state.as_str(),
        };
        self.rides.get_or_create_owned(&label)
    }
}

/// Registers `surge_zone_demand{zone}`.
pub(crate) fn register_demand(registry: &mut Registry, app: App) {
    registry.register_collector(Box::new(DemandByZone(app)));
}

#[derive(Debug)]
struct DemandByZone(App);

impl Collector for DemandByZone {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let levels = self.0.all_demands(self.0.known_as_of());
        let help = "Requests expected in a zone within the window";
        let name = "surge_zone_demand";
        let mut demand = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (zone, level) in self.0.zones().iter().zip(levels) {
            let gauge = ConstGauge::new(level.value);
            gauge.encode(demand.encode_family(&[("zone", zone.to_string())])?)?;
        }
        Ok(())
    }
}
