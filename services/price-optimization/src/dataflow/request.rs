//! Dataflow through request and response: the quote asks both services over gRPC, at the same time, and waits.
//!
//! # How this works
//! ```text
//! quote ──┬── GetSupply(7 zones) ──► driver-management ──┐
//!         └── GetDemand(7 zones) ──► ride-management ────┴──► both answers, or none
//! ```
//! Both services answer from memory, so the data is as fresh as a round trip. When one of the two is slow or away, so is
//! the quote: one deadline covers both calls.

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
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    config::Config,
    dataflow::{
        Dataflow, HealthCheck,
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
        let supply = grpc::channel(&config.supply_url, deadline, grpc::Calls::Read);
        let demand = grpc::channel(&config.demand_url, deadline, grpc::Calls::Read);
        Ok(Self {
            supply: supply.context("SUPPLY_URL is wrong")?,
            demand: demand.context("DEMAND_URL is wrong")?,
            deadline,
        })
    }

    /// Tells a callee that hangs (whichever clock noticed first) from one that is away and one that answers nonsense.
    fn failed(&self, dependency: &'static str, status: &Status) -> DataflowError {
        let detail = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            _ if grpc::is_overdue(status) => DataflowError::Deadline(self.deadline),
            Code::Unavailable | Code::Cancelled => DataflowError::away(dependency, detail),
            // Not an answer: the connection broke during the call, for which tonic has several codes.
            _ if status.source().is_some() => DataflowError::away(dependency, detail),
            _ => DataflowError::Nonsense { dependency, detail },
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

    /// Asks for more zones than one call may name, by several calls at the same time. The times of the first calls stand
    /// for all of them.
    async fn levels_of_many(&self, zones: &[Zone]) -> Result<Answer, DataflowError> {
        let parts = zones.chunks(MAX_ZONES_PER_CALL);
        let parts = try_join_all(parts.map(|zones| self.levels(zones))).await?;
        let calls = parts[0].1;
        let levels = parts.into_iter().flat_map(|(levels, _)| levels);
        Ok((levels.collect(), calls))
    }

    async fn supply(&self, zones: Vec<String>) -> Result<FeedAnswer, DataflowError> {
        let asked_at = RealTime::now();
        let mut client = SupplyServiceClient::new(self.supply.clone());
        let request = client.get_supply(GetSupplyRequest { zones });
        let answer = grpc::call("surge.v1.SupplyService/GetSupply", request)
            .await
            .map_err(|status| self.failed(SUPPLY, &status))?;
        answered(&answer.levels, asked_at, SUPPLY)
    }

    async fn demand(&self, zones: Vec<String>) -> Result<FeedAnswer, DataflowError> {
        let asked_at = RealTime::now();
        let mut client = DemandServiceClient::new(self.demand.clone());
        let request = client.get_demand(GetDemandRequest { zones });
        let answer = grpc::call("surge.v1.DemandService/GetDemand", request)
            .await
            .map_err(|status| self.failed(DEMAND, &status))?;
        answered(&answer.levels, asked_at, DEMAND)
    }
}

#[async_trait]
impl Dataflow for RequestDataflow {
    async fn market_view(&self, zones: &[Zone]) -> Result<MarketObservation, DataflowError> {
        let (zones, calls) = match zones.len() <= MAX_ZONES_PER_CALL {
            true => self.levels(zones).await?,
            // Boxed, so that the future of a quote is not as large as that of the map of a large area.
            false => self.levels_of_many(zones).boxed().await?,
        };
        Ok(MarketObservation {
            view: Arc::new(MarketView { zones }),
            provenance: Provenance::Request(calls),
        })
    }

    fn health_checks(&self) -> Vec<HealthCheck> {
        let callees = [(SUPPLY, self.supply.clone()), (DEMAND, self.demand.clone())];
        let check = |(name, callee): (_, TracedChannel)| {
            HealthCheck::new(name, move || is_serving(callee.clone()))
        };
        callees.map(check).into()
    }
}

/// The levels of both feeds, in the order of the zones, and the times of the two calls.
type Answer = (Vec<ZoneLevels>, PerFeed<CallTimes>);

/// The levels of one feed, and the times of the call.
type FeedAnswer = (Vec<(Zone, Level)>, CallTimes);

fn answered<'a, L>(
    levels: &'a [L],
    asked_at: RealTime,
    callee: &'static str,
) -> Result<FeedAnswer, DataflowError>
where
    (Zone, Level): TryFrom<&'a L, Error = Malformed>,
{
    let answered_at = RealTime::now();
    let levels: Result<Vec<_>, _> = levels.iter().map(TryInto::try_into).collect();
    let levels = levels.map_err(|cause| DataflowError::nonsense(callee, cause))?;
    let times = CallTimes {
        asked_at,
        answered_at,
    };
    Ok((levels, times))
}

/// The level at `index`, if it is that of `zone`: answers come in the order of the request.
fn level_at(levels: &[(Zone, Level)], index: usize, zone: Zone) -> Option<Level> {
    let (answered, level) = levels.get(index)?;
    (*answered == zone).then_some(*level)
}

/// Asks a callee by the standard gRPC health protocol.
async fn is_serving(callee: TracedChannel) -> Result<(), String> {
    let mut client = HealthClient::new(callee);
    let answer = client.check(HealthCheckRequest::default()).await;
    let answer = answer.map_err(|status| status.message().to_owned())?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        status => Err(status.as_str_name().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An async function that takes a future holds it twice, and one around it four times: the future of a quote was
    /// once 23 kB, which every quote moved twice, allocated and freed.
    #[tokio::test]
    async fn future_of_a_quote_is_small() {
        let deadline = Duration::from_secs(1);
        let callee = grpc::channel("http://127.0.0.1:1", deadline, grpc::Calls::Read).unwrap();
        let dataflow = RequestDataflow {
            supply: callee.clone(),
            demand: callee,
            deadline,
        };
        let waiting = dataflow.market_view(&[]);
        assert!(size_of_val(&*waiting) < 4096, "{}", size_of_val(&*waiting));
    }
}
