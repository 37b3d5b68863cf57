//! Dataflow through request and response: the quote asks both services over gRPC, at the same time, and waits. The
//! data is as fresh as a round trip; when one of the two is slow or away, so is the quote.

use std::{error::Error as _, sync::Arc, time::Duration};

use anyhow::Context;
use async_trait::async_trait;
use futures::future::try_join_all;
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
        Dataflow,
        passage::{Call, Calls, Passage, Told},
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

    /// The two callees, to be asked for their health.
    pub(crate) fn callees(&self) -> Callees {
        Callees {
            supply: Probe(self.supply.clone()),
            demand: Probe(self.demand.clone()),
        }
    }

    /// What a failed call means: a callee that hangs is one thing whichever clock noticed first, one that is dead another.
    fn failed(&self, dependency: &'static str, status: &Status) -> DataflowError {
        let detail = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            _ if grpc::is_overdue(status) => DataflowError::Deadline(self.deadline),
            Code::Unavailable | Code::Cancelled => DataflowError::away(dependency, detail),
            // Not an answer at all: the connection broke under the call, for which tonic has several codes.
            _ if status.source().is_some() => DataflowError::away(dependency, detail),
            _ => DataflowError::Nonsense { dependency, detail },
        }
    }

    /// Supply and demand of no more zones than one call may name, asked for at the same time.
    async fn levels(&self, zones: &[Zone]) -> Result<(Vec<ZoneLevels>, Calls), DataflowError> {
        let names: Vec<String> = zones.iter().map(Zone::to_string).collect();
        let supply = timed(self.supply(names.clone()));
        let demand = timed(self.demand(names));
        let ((supply, to_supply), (demand, to_demand)) = tokio::try_join!(supply, demand)?;
        let levels_of = |(index, zone): (usize, &Zone)| ZoneLevels {
            zone: *zone,
            supply: answered(&supply, index, *zone),
            demand: answered(&demand, index, *zone),
        };
        let calls = Calls {
            supply: to_supply,
            demand: to_demand,
        };
        Ok((zones.iter().enumerate().map(levels_of).collect(), calls))
    }

    async fn supply(&self, zones: Vec<String>) -> Result<Vec<(Zone, Level)>, DataflowError> {
        let mut client = SupplyServiceClient::new(self.supply.clone());
        let request = client.get_supply(GetSupplyRequest { zones });
        let answer = grpc::call("surge.v1.SupplyService/GetSupply", request)
            .await
            .map_err(|status| self.failed(SUPPLY, &status))?;
        let levels = answer.levels.iter().map(TryInto::try_into);
        levels
            .collect::<Result<_, Malformed>>()
            .map_err(|cause| DataflowError::nonsense(SUPPLY, cause))
    }

    async fn demand(&self, zones: Vec<String>) -> Result<Vec<(Zone, Level)>, DataflowError> {
        let mut client = DemandServiceClient::new(self.demand.clone());
        let request = client.get_demand(GetDemandRequest { zones });
        let answer = grpc::call("surge.v1.DemandService/GetDemand", request)
            .await
            .map_err(|status| self.failed(DEMAND, &status))?;
        let levels = answer.levels.iter().map(TryInto::try_into);
        levels
            .collect::<Result<_, Malformed>>()
            .map_err(|cause| DataflowError::nonsense(DEMAND, cause))
    }
}

#[async_trait]
impl Dataflow for RequestDataflow {
    async fn market_view(&self, zones: &[Zone]) -> Result<Told, DataflowError> {
        // A quote asks once; the map of a large area asks several times, at once, and its first calls stand for all.
        let mut parts = zones.chunks(MAX_ZONES_PER_CALL);
        let first = self.levels(parts.next().unwrap_or_default());
        let others = try_join_all(parts.map(|zones| self.levels(zones)));
        let ((mut zones, calls), others) = tokio::try_join!(first, others)?;
        zones.extend(others.into_iter().flat_map(|(levels, _)| levels));
        Ok(Told {
            view: Arc::new(MarketView { zones }),
            passage: Passage::Request(calls),
        })
    }
}

/// A call's answer, and when it was made and answered.
async fn timed<T>(
    call: impl Future<Output = Result<T, DataflowError>>,
) -> Result<(T, Call), DataflowError> {
    let asked_at = RealTime::now();
    let answer = call.await?;
    let answered_at = RealTime::now();
    Ok((
        answer,
        Call {
            asked_at,
            answered_at,
        },
    ))
}

/// The level at `index`, if it is about `zone`: answers come in the order of the request.
fn answered(levels: &[(Zone, Level)], index: usize, zone: Zone) -> Option<Level> {
    let (answered, level) = levels.get(index)?;
    (*answered == zone).then_some(*level)
}

/// The services that the mode leans on.
#[derive(Clone, Debug)]
pub(crate) struct Callees {
    pub(crate) supply: Probe,
    pub(crate) demand: Probe,
}

/// Asks a callee for its gRPC health.
#[derive(Clone, Debug)]
pub(crate) struct Probe(TracedChannel);

impl Probe {
    pub(crate) async fn ask(self) -> Result<(), String> {
        let mut client = HealthClient::new(self.0);
        let answer = client.check(HealthCheckRequest::default()).await;
        let answer = answer.map_err(|status| status.message().to_owned())?;
        match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            status => Err(status.as_str_name().to_owned()),
        }
    }
}
