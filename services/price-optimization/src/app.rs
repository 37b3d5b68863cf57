//! The use cases of price-optimization. The quote itself is in [`pricing`](crate::pricing); here is
//! the rest: the multiplier of every zone, the mode in force and its switch, and the explanation of
//! a quote.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use marketplace::{
    fare::Trip,
    quote::{self, Price},
    surge::Multiplier,
    time::MarketTime,
    view::{MarketView, ZoneLevels},
    zone::Zone,
};
use surge_proto::DataflowMode;
use tracing::Span;
use uuid::Uuid;

use crate::{
    control::ModeInForce,
    error::Error,
    explain::{Explainer, Journey},
    pricing::QuoteMaker,
};

/// The use cases. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App(Arc<Parts>);

/// What the use cases need.
#[derive(Debug)]
pub struct Parts {
    /// Makes quotes.
    pub pricing: QuoteMaker,
    /// Explains them.
    pub explainer: Explainer,
}

/// The multiplier of every zone, from one observation of the market.
#[derive(Clone, Debug)]
pub struct ZonePrices {
    /// The mode that supply and demand came through.
    pub dataflow: DataflowMode,
    /// Epoch of the mode in force.
    pub epoch: u64,
    /// The zones of the service area.
    pub zones: Vec<PricedZone>,
}

/// A zone, its price for a trip of no length, and the age of the older feed in real time.
pub type PricedZone = (Zone, Price, Option<Duration>);

impl App {
    /// The use cases on these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Makes quotes.
    pub fn pricing(&self) -> &QuoteMaker {
        &self.0.pricing
    }

    /// Explains how supply and demand reached a quote that this replica made.
    ///
    /// # Errors
    /// [`Error::UnknownJourney`] when the quote is not kept here.
    pub async fn explain(&self, quote_id: Uuid) -> Result<Journey, Error> {
        self.0.explainer.explain(quote_id).await
    }

    /// The multiplier of every zone, through the dataflow of `mode` or of the mode in force.
    ///
    /// # Errors
    /// When the dataflow has no answer.
    pub async fn surge(&self, mode: Option<DataflowMode>) -> Result<ZonePrices, Error> {
        let in_force = self.mode();
        let dataflow = mode.unwrap_or(in_force.mode);
        let QuoteMaker {
            area, dataflows, ..
        } = self.pricing();
        let market = dataflows.market_view(dataflow, area.zones()).await?;
        Ok(ZonePrices {
            dataflow,
            epoch: in_force.epoch,
            zones: self.priced(&market.view),
        })
    }

    /// The multiplier of every zone whose data is fresh enough, from the local state of `events`,
    /// whatever mode is in force. A scrape has no time to wait; this dataflow answers at once.
    pub fn surge_from_events(&self) -> Vec<(Zone, Multiplier)> {
        let QuoteMaker {
            area, dataflows, ..
        } = self.pricing();
        let market = dataflows.market_view(DataflowMode::Events, area.zones());
        let market = Span::none().in_scope(|| market.now_or_never());
        let market = market.and_then(Result::ok);
        let priced = market.map_or_else(Vec::new, |market| self.priced(&market.view));
        let priced = priced.into_iter().filter(|(_, price, _)| !price.degraded);
        priced
            .map(|(zone, price, _)| (zone, price.multiplier))
            .collect()
    }

    /// The mode in force.
    pub fn mode(&self) -> ModeInForce {
        self.pricing().control.current()
    }

    /// Switches the mode, on every replica.
    ///
    /// # Errors
    /// When the control plane is away.
    pub async fn switch(&self, mode: DataflowMode) -> Result<ModeInForce, Error> {
        self.pricing().control.switch(mode).await
    }

    /// The price of every zone of the area, from a view of all of them.
    fn priced(&self, market: &MarketView) -> Vec<PricedZone> {
        let pricing = self.pricing();
        let now = MarketTime::from_millis(pricing.clock.now_millis());
        let nowhere = Trip {
            miles: 0.0,
            minutes: 0.0,
        };
        let price = |zone: &Zone| {
            let view = self.around(*zone, &market.zones);
            let price = quote::price(&view, &nowhere, &pricing.policy, now);
            (*zone, price, pricing.real_age(&price))
        };
        pricing.area.zones().iter().map(price).collect()
    }

    /// The part of a view of the whole area that prices `zone`.
    fn around(&self, zone: Zone, market: &[ZoneLevels]) -> MarketView {
        let levels_of = |zone: &Zone| {
            let index = self.pricing().area.index_of(*zone);
            market[index.expect("the zones of a ring are zones of the area")]
        };
        MarketView {
            zones: self.pricing().ring(zone).iter().map(levels_of).collect(),
        }
    }
}
