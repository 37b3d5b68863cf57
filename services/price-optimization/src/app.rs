//! The use cases: make a quote, show the multiplier of every zone, tell and switch the mode. A quote is two steps: ask
//! the dataflow of the mode for the market around the pickup, then one pure function that is the same for all modes.

use std::{
    sync::{Arc, Once},
    time::Duration,
};

use marketplace::{
    fare::Trip,
    quote::{self, Price, PricingPolicy, Quote},
    time::MarketTime,
    view::{MarketView, ZoneLevels},
    zone::{OutsideServiceArea, Position, ServiceArea, Zone},
};
use platform::{
    clock::{MarketClock, RealTime},
    propagation,
};
use surge_proto::{DataflowMode, token::QuoteKey};
use tokio::time::Instant;
use tracing::{Instrument, Span, field::Empty, info_span, warn};
use uuid::Uuid;

use crate::{
    config::Config,
    control::{ModeControl, ModeInForce},
    dataflow::{Dataflows, passage::Told},
    error::Error,
    journey::{Journey, Journeys, Market, Record},
    metrics::QuoteMetrics,
};

/// The use cases of price-optimization. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    area: Arc<ServiceArea>,
    clock: MarketClock,
    policy: PricingPolicy,
    key: QuoteKey,
    dataflows: Dataflows,
    control: ModeControl,
    metrics: QuoteMetrics,
    journeys: Journeys,
    /// Levels from the future are told of once; each quote that they spoil is marked and counted as degraded.
    told_of_future: Once,
}

/// A quote, what it was made of, and the token that a ride request presents.
#[derive(Clone, Debug)]
pub struct Quoted {
    /// The promise.
    pub quote: Quote,
    /// What it was made of.
    pub price: Price,
    /// Age of the older feed in real time; `None` when a level was missing.
    pub data_age: Option<Duration>,
    /// The dataflow that supply and demand came through.
    pub dataflow: DataflowMode,
    /// Epoch of the mode in force.
    pub epoch: u64,
    /// The signed promise.
    pub token: String,
}

/// The multiplier of every zone, from one look at the market.
#[derive(Clone, Debug)]
pub struct SurgeMap {
    /// The dataflow that supply and demand came through.
    pub dataflow: DataflowMode,
    /// Epoch of the mode in force.
    pub epoch: u64,
    /// The zones of the service area, each with its price of a trip of no length.
    pub zones: Vec<PricedZone>,
}

/// A zone, its price of a trip of no length, and the age of the older feed in real time.
pub type PricedZone = (Zone, Price, Option<Duration>);

impl App {
    /// Puts the parts together.
    pub(crate) fn new(
        config: &Config,
        area: Arc<ServiceArea>,
        clock: MarketClock,
        dataflows: Dataflows,
        control: ModeControl,
        metrics: QuoteMetrics,
        journeys: Journeys,
    ) -> Self {
        let inner = Inner {
            area,
            clock,
            policy: config.pricing(),
            key: config.quote_key.clone(),
            dataflows,
            control,
            metrics,
            journeys,
            told_of_future: Once::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Quotes a trip, through the dataflow `mode` or, without one, the mode in force.
    ///
    /// # Errors
    /// When an end of the trip is outside the service area, or the dataflow has no answer.
    pub async fn quote(
        &self,
        pickup: Position,
        dropoff: Position,
        mode: Option<DataflowMode>,
    ) -> Result<Quoted, Error> {
        let started = Instant::now();
        let area = &self.inner.area;
        let zone = area.zone_of(pickup).map_err(outside("pickup"))?;
        area.admit(dropoff).map_err(outside("dropoff"))?;
        let in_force = self.inner.control.current();
        let dataflow = mode.unwrap_or(in_force.mode);

        let told = self.market_view(dataflow, self.ring(zone)).await;
        let told = told.inspect_err(|_| {
            let took = started.elapsed();
            self.inner.metrics.failed(dataflow, took, &Span::current());
        })?;
        let priced_at = RealTime::now();
        let now = MarketTime::from_millis(self.inner.clock.at_real_micros(priced_at.micros()));
        let trip = Trip::estimate(pickup, dropoff);
        let price = quote::price(&told.view, &trip, &self.inner.policy, now);
        let quote = self.promise(zone, pickup, dropoff, &price, now);
        let quoted = Quoted {
            token: self.inner.key.sign(&quote),
            quote,
            price,
            data_age: self.real_age(&price),
            dataflow,
            epoch: in_force.epoch,
        };
        let took = started.elapsed();
        self.observe(&quoted, took);
        self.inner.journeys.keep(Record {
            quote: quoted.quote.clone(),
            price,
            dataflow,
            epoch: quoted.epoch,
            told,
            priced_at,
            took,
            trace: propagation::sampled_trace(&Span::current()),
        });
        Ok(quoted)
    }

    /// How supply and demand came to a quote that this replica made.
    ///
    /// # Errors
    /// [`Error::UnknownJourney`] when it is not kept here.
    pub async fn journey(&self, quote_id: Uuid) -> Result<Journey, Error> {
        let market = Market {
            clock: &self.inner.clock,
            policy: &self.inner.policy,
        };
        self.inner.journeys.tell(quote_id, market).await
    }

    /// The multiplier of every zone, through the dataflow `mode` or the mode in force.
    ///
    /// # Errors
    /// When the dataflow has no answer.
    pub async fn surge(&self, mode: Option<DataflowMode>) -> Result<SurgeMap, Error> {
        let in_force = self.inner.control.current();
        let dataflow = mode.unwrap_or(in_force.mode);
        let area = &self.inner.area;
        let market = self.market_view(dataflow, area.zones()).await?.view;
        Ok(SurgeMap {
            dataflow,
            epoch: in_force.epoch,
            zones: self.priced(&market),
        })
    }

    /// The multiplier of every zone from what `events` has heard, whatever mode is in force: nobody is asked.
    pub(crate) fn surge_heard(&self) -> Vec<PricedZone> {
        let zones = self.inner.area.zones();
        self.priced(&self.inner.dataflows.events.heard(zones))
    }

    /// The mode in force.
    pub fn mode(&self) -> ModeInForce {
        self.inner.control.current()
    }

    /// Switches the mode, on every replica.
    ///
    /// # Errors
    /// When the control plane is away.
    pub async fn switch(&self, mode: DataflowMode) -> Result<ModeInForce, Error> {
        self.inner.control.switch(mode).await
    }

    async fn market_view(&self, mode: DataflowMode, zones: &[Zone]) -> Result<Told, Error> {
        let span =
            info_span!("dataflow", otel.name = format!("dataflow {mode}"), surge.dataflow = %mode);
        let answer = self.inner.dataflows.market_view(mode, zones);
        let told = answer.instrument(span).await?;
        if told.view.is_ahead_of(self.now()) {
            self.inner.told_of_future.call_once(|| {
                warn!(surge.dataflow = %mode, "dataflow {mode} tells of the future: has its source another market clock?");
            });
        }
        Ok(told)
    }

    /// Every zone of the area, from a view of all of them.
    fn priced(&self, market: &MarketView) -> Vec<PricedZone> {
        let now = self.now();
        let nowhere = Trip {
            miles: 0.0,
            minutes: 0.0,
        };
        let price = |zone: &Zone| {
            let view = self.around(*zone, &market.zones);
            let price = quote::price(&view, &nowhere, &self.inner.policy, now);
            (*zone, price, self.real_age(&price))
        };
        self.inner.area.zones().iter().map(price).collect()
    }

    fn ring(&self, zone: Zone) -> &[Zone] {
        let ring = self.inner.area.k_ring(zone);
        ring.expect("every zone that is served has a ring").zones()
    }

    /// The part of a view of the whole area that prices `zone`.
    fn around(&self, zone: Zone, market: &[ZoneLevels]) -> MarketView {
        let levels_of = |zone: &Zone| {
            let index = self.inner.area.index_of(*zone);
            market[index.expect("the zones of a ring are zones of the area")]
        };
        MarketView {
            zones: self.ring(zone).iter().map(levels_of).collect(),
        }
    }

    fn promise(
        &self,
        zone: Zone,
        pickup: Position,
        dropoff: Position,
        price: &Price,
        now: MarketTime,
    ) -> Quote {
        Quote {
            quote_id: Uuid::now_v7(),
            zone,
            pickup,
            dropoff,
            fare_cents: price.fare_cents,
            multiplier: price.multiplier,
            expires_at: now + self.inner.policy.quote_lifetime,
        }
    }

    /// How long ago, in real time, the older feed was true. The price feels market time (freshness budgets are in
    /// it); the real time is what the dataflow is answerable for, whatever the speed of the replay.
    fn real_age(&self, price: &Price) -> Option<Duration> {
        price
            .data_age
            .map(|age| self.inner.clock.real_duration(age))
    }

    fn now(&self) -> MarketTime {
        MarketTime::from_millis(self.inner.clock.now_millis())
    }

    fn observe(&self, quoted: &Quoted, took: Duration) {
        let multiplier = quoted.price.multiplier.as_f64();
        let span = Span::current();
        span.record("surge.dataflow", quoted.dataflow.as_str());
        span.record("surge.zone", tracing::field::display(quoted.quote.zone));
        span.record("surge.multiplier", multiplier);
        if let Some(age) = quoted.data_age {
            span.record("surge.data_age_ms", age.as_secs_f64() * 1_000.0);
        }
        self.inner.metrics.quoted(
            quoted.dataflow,
            took,
            quoted.data_age,
            multiplier,
            quoted.price.degraded,
            &span,
        );
    }
}

/// The refusal of an end of the trip, which `field` names.
fn outside(field: &'static str) -> impl Fn(OutsideServiceArea) -> Error {
    move |cause| Error::OutsideServiceArea { field, cause }
}

/// The span of a quote, whichever edge it came in by.
pub(crate) fn quote_span() -> Span {
    info_span!(
        "quote",
        surge.dataflow = Empty,
        surge.zone = Empty,
        surge.multiplier = Empty,
        surge.data_age_ms = Empty,
    )
}
