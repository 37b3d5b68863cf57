//! The counts of a city for Prometheus, computed at every scrape.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::state::CityState;

pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as text.
pub(crate) fn encode(city: &CityState) -> String {
    let truth = city.market_truth();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot {
        counts: vec![
            (
                "quotes",
                "Riders who received a quote",
                truth.progress.quotes,
            ),
            (
                "priced_out",
                "Riders who found the price too high",
                truth.progress.priced_out,
            ),
            (
                "requests",
                "Ride requests that were accepted",
                truth.progress.requests,
            ),
            (
                "unserved",
                "Requests without a driver soon enough",
                truth.progress.unserved,
            ),
            ("completed", "Completed rides", truth.progress.completed),
            ("errors", "Failed calls", truth.progress.errors()),
        ],
        gauges: vec![
            ("drivers", "Size of the fleet", truth.fleet as f64),
            (
                "open_requests",
                "Requests not ended yet",
                truth.progress.open as f64,
            ),
            (
                "supply",
                "Predicted available drivers",
                truth.zones.iter().map(|it| it.supply).sum(),
            ),
            (
                "demand",
                "Expected requests",
                truth.zones.iter().map(|it| it.demand).sum(),
            ),
            (
                "truth_trusted",
                "1 if the services agree with the city",
                truth.trusted.into(),
            ),
        ],
    }));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("a string can be written to");
    page
}

#[derive(Debug)]
struct Snapshot {
    counts: Vec<(&'static str, &'static str, u64)>,
    gauges: Vec<(&'static str, &'static str, f64)>,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, value) in &self.counts {
            let metric = ConstCounter::new(*value);
            let name = format!("surge_city_{name}");
            let encoder = encoder.encode_descriptor(&name, help, None, metric.metric_type())?;
            metric.encode(encoder)?;
        }
        for (name, help, value) in &self.gauges {
            let metric = ConstGauge::new(*value);
            let name = format!("surge_city_{name}");
            let encoder = encoder.encode_descriptor(&name, help, None, metric.metric_type())?;
            metric.encode(encoder)?;
        }
        Ok(())
    }
}
