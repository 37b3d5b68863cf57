//! A trip becomes a price, in three steps that are the same for all modes.
//!
//! # How this works
//! ```text
//! trip ──► zone and its ring ──► 1. the dataflow observes supply and demand there   (dataflow/)
//!                                2. one pure function makes a price of them         (marketplace::quote::price)
//!                                3. the key signs the promise: a quote              (surge_proto::token)
//! ```
//! Only step 1 depends on the mode. Given the same levels, all modes give the same multiplier and the same fare, to the
//! bit. A quote is *degraded*, and priced without surge, when step 2 finds a level that is missing, too old or from the
//! future.

use std::{sync::Arc, time::Duration};

use marketplace::{
    fare::Trip,
    quote::{self, Price, PricingPolicy, Quote},
    time::MarketTime,
    zone::{OutsideServiceArea, Position, ServiceArea, Zone},
};
use platform::{
    clock::{MarketClock, RealTime},
    propagation,
};
use surge_proto::{DataflowMode, token::QuoteKey};
use tokio::time::Instant;
use tracing::{Span, field::Empty, instrument};
use uuid::Uuid;

use crate::{
    control::ModeControl,
    dataflow::Dataflows,
    error::Error,
    explain::recent::{QuoteRecord, RecentQuotes},
    metrics::QuoteMetrics,
};

/// Makes quotes.
#[derive(Debug)]
pub struct Pricing {
    pub(crate) area: Arc<ServiceArea>,
    pub(crate) clock: MarketClock,
    pub(crate) policy: PricingPolicy,
    pub(crate) key: QuoteKey,
    pub(crate) dataflows: Dataflows,
    pub(crate) control: ModeControl,
    pub(crate) metrics: QuoteMetrics,
    pub(crate) recent: Arc<RecentQuotes>,
}

/// A quote, what it was made of, and the token that a ride request presents.
#[derive(Clone, Debug)]
pub struct SignedQuote {
    /// The promise.
    pub quote: Quote,
    /// What it was made of.
    pub price: Price,
    /// Age of the older feed in real time; `None` when a level was missing or from the future.
    pub data_age: Option<Duration>,
    /// The mode that supply and demand came through.
    pub dataflow: DataflowMode,
    /// Epoch of the mode in force.
    pub epoch: u64,
    /// The signed promise.
    pub token: String,
}

impl Pricing {
    /// Quotes a trip, through the dataflow of `mode` or, without one, of the mode in force.
    ///
    /// # Errors
    /// When an end of the trip is outside the service area, or the dataflow has no answer.
    #[instrument(
        skip_all,
        fields(
            surge.dataflow = Empty,
            surge.zone = Empty,
            surge.multiplier = Empty,
            surge.data_age_ms = Empty,
        )
    )]
    pub async fn quote(
        &self,
        pickup: Position,
        dropoff: Position,
        mode: Option<DataflowMode>,
    ) -> Result<SignedQuote, Error> {
        let started = Instant::now();
        let zone = self.area.zone_of(pickup).map_err(outside("pickup"))?;
        self.area.admit(dropoff).map_err(outside("dropoff"))?;
        let in_force = self.control.current();
        let dataflow = mode.unwrap_or(in_force.mode);

        let market = self.dataflows.market_view(dataflow, self.ring(zone)).await;
        let market = market.inspect_err(|_| {
            let took = started.elapsed();
            self.metrics.failed(dataflow, took, &Span::current());
        })?;
        let priced_at = RealTime::now();
        let now = MarketTime::from_millis(self.clock.at_real_micros(priced_at.micros()));
        let trip = Trip::estimate(pickup, dropoff);
        let price = quote::price(&market.view, &trip, &self.policy, now);
        let quote = Quote {
            quote_id: Uuid::now_v7(),
            zone,
            pickup,
            dropoff,
            fare_cents: price.fare_cents,
            multiplier: price.multiplier,
            expires_at: now + self.policy.quote_lifetime,
        };
        let signed = SignedQuote {
            token: self.key.sign(&quote),
            quote,
            price,
            data_age: self.real_age(&price),
            dataflow,
            epoch: in_force.epoch,
        };
        let took = started.elapsed();
        self.observe(&signed, took);
        self.recent.keep(QuoteRecord {
            quote: signed.quote.clone(),
            price,
            dataflow,
            epoch: signed.epoch,
            market,
            priced_at,
            took,
            trace: propagation::sampled_trace(&Span::current()),
        });
        Ok(signed)
    }

    /// The zones whose levels price `zone`: itself first, then its neighbours.
    pub fn ring(&self, zone: Zone) -> &[Zone] {
        let ring = self.area.k_ring(zone);
        ring.expect("every zone that is served has a ring").zones()
    }

    /// Market time, now.
    pub fn now(&self) -> MarketTime {
        MarketTime::from_millis(self.clock.now_millis())
    }

    /// How long ago, in real time, the older feed was true. The price depends on market time, in which freshness is
    /// defined; the real time is what a dataflow is answerable for, whatever the speed of the replay.
    pub fn real_age(&self, price: &Price) -> Option<Duration> {
        price.data_age.map(|age| self.clock.real_duration(age))
    }

    fn observe(&self, signed: &SignedQuote, took: Duration) {
        let multiplier = signed.price.multiplier.as_f64();
        let span = Span::current();
        span.record("surge.dataflow", signed.dataflow.as_str());
        span.record("surge.zone", tracing::field::display(signed.quote.zone));
        span.record("surge.multiplier", multiplier);
        if let Some(age) = signed.data_age {
            span.record("surge.data_age_ms", age.as_secs_f64() * 1_000.0);
        }
        self.metrics.quoted(
            signed.dataflow,
            took,
            signed.data_age,
            multiplier,
            signed.price.degraded,
            &span,
        );
    }
}

/// The refusal of an end of the trip, which `field` names.
fn outside(field: &'static str) -> impl Fn(OutsideServiceArea) -> Error {
    move |cause| Error::OutsideServiceArea { field, cause }
}
