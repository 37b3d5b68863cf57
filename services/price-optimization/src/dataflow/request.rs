//! Dataflow through request and response: the quote asks both services over gRPC, and waits.
//!
//! # How this works
//! ```text
//! quote ──┬── GetSupply(7 zones) ──► driver-management ──┐
//!         └── GetDemand(7 zones) ──► ride-management ────┴──► both answers, or none
//! ```
//! Both services answer from memory, so the data is as fresh as a round trip. When one of the two
//! is slow or away, so is the quote: one deadline covers both calls.

use std::{sync::Arc, time::Duration};

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
use tonic::Status;

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

/// The levels of both feeds, and the times of the two calls.
type BothAnswers = (Vec<ZoneLevels>, PerFeed<CallTimes>);

/// Calls both services.
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

    /// Asks about no more zones than one call may name.
    async fn levels(&self, asked: &[Zone]) -> Result<BothAnswers, DataflowError> {
        let names: Vec<String> = asked.iter().map(Zone::to_string).collect();
        let (zones, mut client) = (names.clone(), SupplyServiceClient::new(self.supply.clone()));
        let call = client.get_supply(GetSupplyRequest { zones });
        let supply = grpc::call("surge.v1.SupplyService/GetSupply", call);
        let (zones, mut client) = (names, DemandServiceClient::new(self.demand.clone()));
        let call = client.get_demand(GetDemandRequest { zones });
        let demand = grpc::call("surge.v1.DemandService/GetDemand", call);
        let ((supply, to_supply), (demand, to_demand)) = tokio::try_join!(
            self.answer(SUPPLY, supply, |answer| answer.levels),
            self.answer(DEMAND, demand, |answer| answer.levels),
        )?;
        // Answers come in the order of the request.
        let levels_of = |(index, zone): (usize, &Zone)| {
            let level = |levels: &[(Zone, Level)]| {
                let answered = levels.get(index).filter(|(answered, _)| answered == zone);
                answered.map(|(_, level)| *level)
            };
            ZoneLevels {
                zone: *zone,
                supply: level(&supply),
                demand: level(&demand),
            }
        };
        let calls = PerFeed {
            supply: to_supply,
            demand: to_demand,
        };
        Ok((asked.iter().enumerate().map(levels_of).collect(), calls))
    }

    /// Waits for the answer of one callee, and parses its levels.
    async fn answer<A, L>(
        &self,
        callee: &'static str,
        call: impl Future<Output = Result<A, Status>>,
        levels: fn(A) -> Vec<L>,
    ) -> Result<(Vec<(Zone, Level)>, CallTimes), DataflowError>
    where
        for<'a> (Zone, Level): TryFrom<&'a L, Error = Malformed>,
    {
        let asked_at = RealTime::now();
        let failed = |status| DataflowError::of_call(callee, &status, self.deadline);
        let answer = call.await.map_err(failed)?;
        let times = CallTimes {
            asked_at,
            answered_at: RealTime::now(),
        };
        let levels: Result<_, _> = levels(answer).iter().map(TryInto::try_into).collect();
        let levels = levels.map_err(|_: Malformed| DataflowError::Nonsense(callee))?;
        Ok((levels, times))
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
