//! Dataflow through request and response: the quote asks both services over gRPC, at the same time,
//! and waits.
//!
//! # How this works
//! ```text
//! quote ──┬── GetSupply(7 zones) ──► driver-management ──┐
//!         └── GetDemand(7 zones) ──► ride-management ────┴──► both answers, or none
//! ```
//! Both services answer from memory, so the data is as fresh as a round trip. When one of the two
//! is slow or away, so is the quote: one deadline covers both calls.

use std::{error::Error as _, sync::Arc, time::Duration};

use anyhow::Context;
use async_trait::async_trait;
use futures::{FutureExt as _, future::try_join_all};
use marketplace::{
    view::{Level, MarketView, ZoneLevels},
    zone::Zone,
};
use platform::{
    clock::RealTime,
    grpc::{self, TracedChannel},
};
use surge_proto::{
    convert::{MAX_ZONES_PER_CALL, Malformed},
    v1::{
        GetDemandRequest, GetSupplyRequest, demand_service_client::DemandServiceClient,
        supply_service_client::SupplyServiceClient,
    },
};
use tonic::{Code, Status};

use crate::{
    config::Config,
    dataflow::{
        Check, Dataflow, HealthCheck,
        provenance::{CallTimes, MarketObservation, PerFeed, Provenance},
    },
    error::DataflowError,
};

const SUPPLY: &str = "driver-management";
const DEMAND: &str = "ride-management";

/// Calls driver-management and ride-management.
#[derive(Debug)]
pub struct RequestDataflow {
    supply: TracedChannel,
    demand: TracedChannel,
    deadline: Duration,
}

impl RequestDataflow {
    /// Opens a channel to each of the two; neither has to be there yet.
    ///
    /// # Errors
    /// When a URL cannot be used.
    pub fn connect(config: &Config) -> anyhow::Result<Self> {
        let deadline = config.dataflow_deadline;
        let supply = grpc::channel(&config.supply_url, deadline, grpc::Calls::Idempotent);
        let demand = grpc::channel(&config.demand_url, deadline, grpc::Calls::Idempotent);
        Ok(Self {
            supply: supply.context("SUPPLY_URL is wrong")?,
            demand: demand.context("DEMAND_URL is wrong")?,
            deadline,
        })
    }

    /// Distinguishes a callee that hangs (whichever clock noticed first), one that is away, and one
    /// that answers nonsense.
    fn failed(&self, callee: &'static str, status: &Status) -> DataflowError {
        match status.code() {
            _ if grpc::is_overdue(status) => DataflowError::Deadline(self.deadline),
            Code::Unavailable | Code::Cancelled => DataflowError::Away(callee),
            // The connection broke during the call, for which tonic has several codes.
            _ if status.source().is_some() => DataflowError::Away(callee),
            _ => DataflowError::Nonsense(callee),
        }
    }

    /// Asks for supply and demand of no more zones than one call may name.
    async fn levels(&self, zones: &[Zone]) -> Result<Answer, DataflowError> {
        let names: Vec<String> = zones.iter().map(Zone::to_string).collect();
        let ((supply, to_supply), (demand, to_demand)) =
            tokio::try_join!(self.supply(names.clone()), self.demand(names))?;
        let levels_of = |(index, zone): (usize, &Zone)| ZoneLevels {
            zone: *zone,
            supply: level_at(&supply, index, *zone),
            demand: level_at(&demand, index, *zone),
        };
        let calls = PerFeed {
            supply: to_supply,
            demand: to_demand,
        };
        Ok((zones.iter().enumerate().map(levels_of).collect(), calls))
    }

    async fn supply(&self, zones: Vec<String>) -> Result<FeedAnswer, DataflowError> {
        let mut client = SupplyServiceClient::new(self.supply.clone());
        let call = client.get_supply(GetSupplyRequest { zones });
        let call = grpc::call("surge.v1.SupplyService/GetSupply", call);
        self.levels_of_feed(SUPPLY, call, |answer| answer.levels)
            .await
    }

    async fn demand(&self, zones: Vec<String>) -> Result<FeedAnswer, DataflowError> {
        let mut client = DemandServiceClient::new(self.demand.clone());
        let call = client.get_demand(GetDemandRequest { zones });
        let call = grpc::call("surge.v1.DemandService/GetDemand", call);
        self.levels_of_feed(DEMAND, call, |answer| answer.levels)
            .await
    }

    async fn levels_of_feed<A, L>(
        &self,
        callee: &'static str,
        call: impl Future<Output = Result<A, Status>>,
        levels: fn(A) -> Vec<L>,
    ) -> Result<FeedAnswer, DataflowError>
    where
        for<'a> (Zone, Level): TryFrom<&'a L, Error = Malformed>,
    {
        let asked_at = RealTime::now();
        let answer = call.await.map_err(|status| self.failed(callee, &status))?;
        let answered_at = RealTime::now();
        let levels: Result<_, _> = levels(answer).iter().map(TryInto::try_into).collect();
        let levels = levels.map_err(|_: Malformed| DataflowError::Nonsense(callee))?;
        Ok((
            levels,
            CallTimes {
                asked_at,
                answered_at,
            },
        ))
    }
}

#[async_trait]
impl Dataflow for RequestDataflow {
    async fn market_view(&self, zones: &[Zone]) -> Result<MarketObservation, DataflowError> {
        // More than one part is the map of a large area. The times of the first part stand for all.
        let parts = zones.chunks(MAX_ZONES_PER_CALL);
        let parts = try_join_all(parts.map(|zones| self.levels(zones))).await?;
        let calls = parts.first().expect("there are zones to ask for").1;
        let zones = parts.into_iter().flat_map(|(levels, _)| levels).collect();
        Ok(MarketObservation {
            view: Arc::new(MarketView { zones }),
            provenance: Provenance::Request(calls),
        })
    }

    fn health_checks(&self) -> Vec<HealthCheck> {
        let check = |callee: &TracedChannel| -> Check {
            let callee = callee.clone();
            Box::new(move || grpc::health_check(callee.clone()).boxed())
        };
        vec![(SUPPLY, check(&self.supply)), (DEMAND, check(&self.demand))]
    }
}

/// The levels of both feeds, in the order of the zones, and the times of the two calls.
type Answer = (Vec<ZoneLevels>, PerFeed<CallTimes>);

/// The levels of one feed, and the times of the call.
type FeedAnswer = (Vec<(Zone, Level)>, CallTimes);

/// The level at `index`, if it is that of `zone`: answers come in the order of the request.
fn level_at(levels: &[(Zone, Level)], index: usize, zone: Zone) -> Option<Level> {
    let (answered, level) = levels.get(index)?;
    (*answered == zone).then_some(*level)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An async function that takes a future holds it twice, and one around it four times: the
    /// future of a quote was once 23 kB, which every quote moved twice, allocated and freed.
    #[tokio::test]
    async fn future_of_a_quote_is_small() {
        let deadline = Duration::from_secs(1);
        let callee =
            grpc::channel("http://127.0.0.1:1", deadline, grpc::Calls::Idempotent).unwrap();
        let dataflow = RequestDataflow {
            supply: callee.clone(),
            demand: callee,
            deadline,
        };
        let waiting = dataflow.market_view(&[]);
        assert!(size_of_val(&*waiting) < 4096, "{}", size_of_val(&*waiting));
    }
}
