//! What is counted of quotes, and the gauges of the market as this service sees it. The handles of each mode are looked
//! up once, at the start, so that counting a quote touches nothing but its own counters.

use std::time::Duration;

use platform::metrics::{Durations, LatencyFamily, latency_family};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{
        MetricType, counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram,
    },
    registry::{Registry, Unit},
};
use surge_proto::DataflowMode;
use tracing::Span;

use crate::{app::App, control::ModeControl, dataflow::events::Subscriber};

/// Bounds of data age, in real seconds: from a gRPC round trip to a nightly batch.
const AGE_BUCKETS_SECONDS: [f64; 14] = [
    0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3_600.0, 86_400.0,
];

/// Bounds of the multiplier.
const MULTIPLIER_BUCKETS: [f64; 10] = [1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuoteLabels {
    dataflow: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DataflowLabels {
    dataflow: &'static str,
}

/// The metrics of quotes, by mode.
#[derive(Clone, Debug)]
pub(crate) struct QuoteMetrics {
    by_mode: [ModeMetrics; DataflowMode::ALL.len()],
    multiplier: Histogram,
}

#[derive(Clone, Debug)]
struct ModeMetrics {
    quoted: Counter,
    degraded: Counter,
    failed: Counter,
    duration: Durations,
    data_age: Durations,
}

impl QuoteMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let quotes = Family::<QuoteLabels, Counter>::default();
        let duration: LatencyFamily<DataflowLabels> = latency_family();
        let data_age: LatencyFamily<DataflowLabels> =
            Family::new_with_constructor(|| Durations::within(AGE_BUCKETS_SECONDS));
        let multiplier = Histogram::new(MULTIPLIER_BUCKETS);
        registry.register("surge_quotes", "Quotes asked for", quotes.clone());
        registry.register_with_unit(
            "surge_quote_duration",
            "Time to make a quote",
            Unit::Seconds,
            duration.clone(),
        );
        registry.register_with_unit(
            "surge_data_age",
            "Age of the older feed at the moment of the quote, in real time",
            Unit::Seconds,
            data_age.clone(),
        );
        registry.register("surge_multiplier", "Multipliers quoted", multiplier.clone());

        let by_mode = DataflowMode::ALL.map(|mode| {
            let dataflow = mode.as_str();
            let counter = |outcome| {
                quotes
                    .get_or_create(&QuoteLabels { dataflow, outcome })
                    .clone()
            };
            ModeMetrics {
                quoted: counter("quoted"),
                degraded: counter("degraded"),
                failed: counter("failed"),
                duration: duration.get_or_create(&DataflowLabels { dataflow }).clone(),
                data_age: data_age.get_or_create(&DataflowLabels { dataflow }).clone(),
            }
        });
        Self {
            by_mode,
            multiplier,
        }
    }

    pub(crate) fn quoted(
        &self,
        mode: DataflowMode,
        took: Duration,
        data_age: Option<Duration>,
        multiplier: f64,
        degraded: bool,
        span: &Span,
    ) {
        let metrics = &self.by_mode[mode as usize];
        if degraded {
            &metrics.degraded
        } else {
            &metrics.quoted
        }
        .inc();
        metrics.duration.observe(took, span);
        if let Some(age) = data_age {
            metrics.data_age.observe(age, span);
        }
        self.multiplier.observe(multiplier);
    }

    pub(crate) fn failed(&self, mode: DataflowMode, took: Duration, span: &Span) {
        let metrics = &self.by_mode[mode as usize];
        metrics.failed.inc();
        metrics.duration.observe(took, span);
    }
}

/// Registers which mode is in force, and how old the feeds of `events` are.
pub(crate) fn register_dataflows(registry: &mut Registry, control: ModeControl, feeds: Subscriber) {
    registry.register_collector(Box::new(ModeInForce(control)));
    registry.register_collector(Box::new(FeedAges(feeds)));
}

#[derive(Debug)]
struct ModeInForce(ModeControl);

impl Collector for ModeInForce {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let in_force = self.0.current();
        let gauge = MetricType::Gauge;
        let help = "1 for the dataflow mode in force, 0 for the others";
        let mut modes = encoder.encode_descriptor("surge_dataflow_in_force", help, None, gauge)?;
        for mode in DataflowMode::ALL {
            let is_in_force = ConstGauge::new(i64::from(mode == in_force.mode));
            is_in_force.encode(modes.encode_family(&[("dataflow", mode.as_str())])?)?;
        }
        let help = "How often the dataflow mode was switched";
        let epoch = encoder.encode_descriptor("surge_dataflow_epoch", help, None, gauge)?;
        ConstGauge::new(in_force.epoch).encode(epoch)
    }
}

#[derive(Debug)]
struct FeedAges(Subscriber);

impl Collector for FeedAges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Age of the newest watermark of a feed of the dataflow events, in real time";
        let unit = Some(&Unit::Seconds);
        let mut ages =
            encoder.encode_descriptor("surge_feed_age", help, unit, MetricType::Gauge)?;
        for (feed, age) in self.0.feed_ages() {
            // A feed that was never heard of has no age.
            if let Some(age) = age {
                let age = ConstGauge::new(age.as_secs_f64());
                age.encode(ages.encode_family(&[("feed", feed)])?)?;
            }
        }
        Ok(())
    }
}

/// Registers `surge_zone_multiplier{zone}`, from what `events` has heard: a scrape has no time to ask anybody.
pub(crate) fn register_multipliers(registry: &mut Registry, app: App) {
    registry.register_collector(Box::new(ZoneMultipliers(app)));
}

#[derive(Debug)]
struct ZoneMultipliers(App);

impl Collector for ZoneMultipliers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = "surge_zone_multiplier";
        let help = "Multiplier of a zone, from what the dataflow events has heard";
        let mut zones = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (zone, price, _) in self.0.surge_heard() {
            // What is too old for a price has none.
            if !price.degraded {
                let multiplier = ConstGauge::new(price.multiplier.as_f64());
                multiplier.encode(zones.encode_family(&[("zone", zone.to_string())])?)?;
            }
        }
        Ok(())
    }
}
