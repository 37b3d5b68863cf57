//! Metrics of the service's own; those of the edges are in `platform`.

use platform::metrics::on_scrape;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
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
    /// Registers `surge_rides_total`, with every state at zero: a counter that is missing cannot be
    /// told from one that does not count.
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
    on_scrape(registry, move |scrape| {
        let levels = app.all_demands(app.known_as_of());
        let zones = app.zones().iter().map(|zone| [("zone", zone.to_string())]);
        let rows = zones.zip(levels.iter().map(|level| level.value));
        let help = "Requests expected in a zone within the window";
        scrape.gauges("surge_zone_demand", help, rows);
    });
}
