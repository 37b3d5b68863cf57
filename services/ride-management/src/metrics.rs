//! The metrics of this service: rides by the states that they entered, and a gauge that is read
//! when Prometheus scrapes. `lib.rs` registers all of them; a gauge gets the function that reads
//! its value.

use marketplace::zone::Zone;
use platform::metrics::on_scrape;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::ride::RideState;

/// Counts rides by the states that they entered since the start of the process.
#[derive(Clone, Debug, Default)]
pub struct RideMetrics(Family<StateLabel, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

impl RideMetrics {
    /// Registers `surge_rides_total{state}`, with every state at zero, so that a counter that is
    /// missing means a fault.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for state in RideState::ALL {
            metrics.of(state);
        }
        let help = "Rides that entered a state";
        registry.register("surge_rides", help, metrics.0.clone());
        metrics
    }

    /// Counts a ride that entered `state`.
    pub(crate) fn entered(&self, state: RideState) {
        self.of(state).inc();
    }

    fn of(&self, state: RideState) -> Counter {
        let state = state.as_str();
        self.0.get_or_create_owned(&StateLabel { state })
    }
}

/// Registers `surge_zone_demand{zone}`.
pub(crate) fn register_demand(
    registry: &mut Registry,
    demand: impl Fn() -> Vec<(Zone, f64)> + Send + Sync + 'static,
) {
    on_scrape(registry, move |scrape| {
        let rows = demand().into_iter();
        let rows = rows.map(|(zone, value)| ([("zone", zone.to_string())], value));
        let help = "Requests expected in a zone within the window";
        scrape.gauges("surge_zone_demand", help, rows);
    });
}
