//! A trip becomes a price, in three steps that are the same for all modes.
//!
//! # How this works
//! ```text
//! trip ─► zone, ring ─► 1. the dataflow observes supply and demand      (dataflow/)
//!                       2. one pure function makes a price of them      (marketplace::quote)
//!                       3. a key signs the promise: the quote           (surge_proto::token)
//! ```
//! Only step 1 depends on the mode: given the same levels, all modes give the same fare, to the
//! bit. A quote is *degraded*, and priced without surge, when step 2 finds a level that is missing,
//! too old or from the future.

use std::{sync::Arc, time::Duration};

use marketplace::{
    fare::Trip,
    quote::{self, Price, PricingPolicy, Quote},
    time::MarketTime,
    zone::{OutsideServiceArea, Position, ServiceArea, Zone},
};
use platform::{
    clock::{MarketClock, RealTime},
    metrics::report_end,
    propagation,
};
use surge_proto::{DataflowMode, token::QuoteKey};
use tokio::time::Instant;
use tracing::{Span, field::display, instrument};
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
pub struct QuoteMaker {
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
    pub(crate) quote: Quote,
    pub(crate) price: Price,
    /// Age of the older feed in real time; `None` when a level was missing or from the future.
    pub(crate) data_age: Option<Duration>,
    pub(crate) dataflow: DataflowMode,
    pub(crate) epoch: u64,
    pub(crate) token: String,
}

impl QuoteMaker {
    /// Quotes a trip, through the dataflow of `mode` or, without one, of the mode in force.
    ///
    /// # Errors
    /// When an end of the trip is outside the service area, or the dataflow has no answer.
    #[instrument(skip_all, fields(surge.dataflow, surge.zone, surge.multiplier, surge.data_age_ms))]
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
        let span = Span::current();
        span.record("surge.dataflow", dataflow.as_str());
        span.record("surge.zone", display(zone));
        let market = self.dataflows.market_view(dataflow, self.ring(zone));
        let market = report_end(market, |market, took| {
            // Of a caller that gave up, too: it got no quote.
            if !matches!(market, Some(Ok(_))) {
                self.metrics.failed(dataflow, took, &span);
            }
        });
        let market = market.await?;
        let priced_at = RealTime::now();
        let now = MarketTime::from_millis(self.clock.at_real_micros(priced_at.micros()));
        let trip = &Trip::estimate(pickup, dropoff);
        let price = quote::price(&market.view, trip, &self.policy, now);
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
        self.record(&signed, took, &span);
        self.recent.keep(QuoteRecord {
            quote: signed.quote.clone(),
            price,
            dataflow,
            epoch: signed.epoch,
            market,
            priced_at,
            took,
            trace: propagation::sampled_trace(&span),
        });
        Ok(signed)
    }

    /// The zones whose levels price `zone`: itself first, then its neighbours.
    pub fn ring(&self, zone: Zone) -> &[Zone] {
        let ring = self.area.k_ring(zone);
        ring.expect("every zone that is served has a ring").zones()
    }

    /// How long ago, in real time, the older feed was true. Freshness is a matter of market time;
    /// a dataflow is answerable for real time, whatever the speed of the replay.
    pub fn real_age(&self, price: &Price) -> Option<Duration> {
        price.data_age.map(|age| self.clock.real_duration(age))
    }

    fn record(&self, signed: &SignedQuote, took: Duration, span: &Span) {
        let multiplier = signed.price.multiplier.as_f64();
        span.record("surge.multiplier", multiplier);
        if let Some(age) = signed.data_age {
            span.record("surge.data_age_ms", age.as_secs_f64() * 1_000.0);
        }
        let (mode, degraded) = (signed.dataflow, signed.price.degraded);
        self.metrics
            .quoted(mode, took, signed.data_age, multiplier, degraded, span);
    }
}

fn outside(field: &'static str) -> impl Fn(OutsideServiceArea) -> Error {
    move |cause| Error::OutsideServiceArea { field, cause }
}
