//! Figures that are not counted but looked up, at the moment when Prometheus scrapes: connections
//! in a pool, drivers by status, memory of the process.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric,
        MetricEncoder,
    },
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

/// Registers a function that writes figures whenever Prometheus scrapes.
pub fn on_scrape(registry: &mut Registry, write: impl Fn(&mut Scrape<'_>) + Send + Sync + 'static) {
    registry.register_collector(Box::new(OnScrape(write)));
}

/// One scrape that is under way. A name that ends in `_seconds` or `_bytes` has that unit.
#[derive(Debug)]
pub struct Scrape<'a> {
    encoder: DescriptorEncoder<'a>,
    outcome: fmt::Result,
}

impl Scrape<'_> {
    /// Writes a gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) {
        self.write(name, help, MetricType::Gauge, |encoder| {
            ConstGauge::new(value).encode(encoder)
        });
    }

    /// Writes one gauge for each set of labels.
    pub fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, V)>,
    ) {
        self.write(name, help, MetricType::Gauge, |mut encoder| {
            rows.into_iter().try_for_each(|(labels, value)| {
                ConstGauge::new(value).encode(encoder.encode_family(&labels)?)
            })
        });
    }

    /// Writes a counter without labels; the exposition appends `_total` to its name.
    pub fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) {
        self.write(name, help, MetricType::Counter, |encoder| {
            ConstCounter::new(value).encode(encoder)
        });
    }

    /// Writes one counter for each set of labels.
    pub fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, V)>,
    ) {
        self.write(name, help, MetricType::Counter, |mut encoder| {
            rows.into_iter().try_for_each(|(labels, value)| {
                ConstCounter::new(value).encode(encoder.encode_family(&labels)?)
            })
        });
    }

    fn write(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        encode: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) {
        let (name, unit) = match name.rsplit_once('_') {
            Some((name, "seconds")) => (name, Some(&Unit::Seconds)),
            Some((name, "bytes")) => (name, Some(&Unit::Bytes)),
            _ => (name, None),
        };
        let encoder = self.encoder.encode_descriptor(name, help, unit, kind);
        self.outcome = self.outcome.and(encoder.and_then(encode));
    }
}

struct OnScrape<F>(F);

impl<F> fmt::Debug for OnScrape<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnScrape")
    }
}

impl<F: Fn(&mut Scrape<'_>) + Send + Sync + 'static> Collector for OnScrape<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let outcome = Ok(());
        let mut scrape = Scrape { encoder, outcome };
        (self.0)(&mut scrape);
        scrape.outcome
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn figures_are_looked_up_at_each_scrape() {
        let mut registry = Registry::default();
        on_scrape(&mut registry, |scrape| {
            scrape.gauges("drivers", "Drivers", [([("status", "idle")], 3_u64)]);
            scrape.counter("cpu_seconds", "Processor time", 0.5);
        });
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("drivers{status=\"idle\"} 3\n"), "{text}");
        assert!(text.contains("# UNIT cpu_seconds seconds\n"), "{text}");
        assert!(text.contains("cpu_seconds_total 0.5\n"), "{text}");
    }
}
