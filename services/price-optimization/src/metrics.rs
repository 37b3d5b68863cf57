//! What is counted of quotes, and the gauges of the market as this service sees it. The handles of each mode are looked
//! up once, at the start, so that counting a quote touches nothing but its own counters.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use marketplace::{surge::Multiplier, zone::Zone};
use platform::metrics::{Durations, LatencyFamily, latency_family};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use surge_proto::DataflowMode;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
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
        let mut ages = encoder.encode_descriptor("surge_feed_age", help, unit, MetricType::Gauge)?;
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

/// How often the multipliers of all zones are looked up.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Keeps `surge_zone_multiplier{zone}`: what the mode in force would quote. Asking a mode takes time that a scrape does not
/// have, so a loop asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct ZoneMultipliers {
    /// As of the last look; `None` if that failed: no series says so better than an old one.
    // A std mutex: held to take or put a list, never across an await.
    seen: Arc<Mutex<Option<Vec<(Zone, Multiplier)>>>>,
}

impl ZoneMultipliers {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let multipliers = Self::default();
        registry.register_collector(Box::new(multipliers.clone()));
        multipliers
    }

    /// Looks until `token` is cancelled.
    pub(crate) async fn keep(self, app: App, token: CancellationToken) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while token.run_until_cancelled(ticks.tick()).await.is_some() {
            let Some(map) = token.run_until_cancelled(app.surge(None)).await else {
                return;
            };
            // Whoever asks for a quote is told why there is none.
            let zones = map.ok().map(|map| map.zones.into_iter());
            let seen = zones.map(|zones| {
                let multiplier = |(zone, price, _): (Zone, marketplace::quote::Price, _)| {
                    (zone, price.multiplier)
                };
                zones.map(multiplier).collect()
            });
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        }
    }
}

impl Collector for ZoneMultipliers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = "surge_zone_multiplier";
        let help = "What the mode in force would quote in a zone";
        let mut zones = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (zone, multiplier) in seen.iter().flatten() {
            let multiplier = ConstGauge::new(multiplier.as_f64());
            multiplier.encode(zones.encode_family(&[("zone", zone.to_string())])?)?;
        }
        Ok(())
    }
}
