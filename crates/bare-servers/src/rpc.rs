//! The floor of `request`: two gRPC calls, each to a process that answers from nothing.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use surge_proto::v1::{
    DemandLevel, DispatchRequest, DispatchResponse, GetDemandRequest, GetDemandResponse,
    GetSupplyRequest, GetSupplyResponse, ReleaseRequest, ReleaseResponse, ReportPositionsRequest,
    ReportPositionsResponse, SupplyLevel,
    demand_service_client::DemandServiceClient,
    demand_service_server::{DemandService, DemandServiceServer},
    supply_service_client::SupplyServiceClient,
    supply_service_server::{SupplyService, SupplyServiceServer},
};
use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::http::{FloorQuote, FloorTrip, with_livez};

/// A k-ring of midtown Manhattan: the seven zones that a quote asks for.
pub(crate) const ZONES: [&str; 7] = [
    "872a100d6ffffff",
    "872a100d2ffffff",
    "872a100d4ffffff",
    "872a10089ffffff",
    "872a1008bffffff",
    "872a100d0ffffff",
    "872a1072cffffff",
];

#[derive(Clone)]
struct Caller {
    supply: SupplyServiceClient<Channel>,
    demand: DemandServiceClient<Channel>,
}

/// A quote after a call to each of two callees; neither has to be there yet.
pub(crate) fn caller(supply_url: String, demand_url: String) -> anyhow::Result<Router> {
    let channel = |url| Ok::<_, anyhow::Error>(Endpoint::from_shared(url)?.connect_lazy());
    let caller = Caller {
        supply: SupplyServiceClient::new(channel(supply_url)?),
        demand: DemandServiceClient::new(channel(demand_url)?),
    };
    let router = Router::new().route("/v1/quotes", post(quote));
    Ok(with_livez(router.with_state(caller)))
}

async fn quote(
    State(mut caller): State<Caller>,
    headers: HeaderMap,
    Json(trip): Json<FloorTrip>,
) -> Result<Json<FloorQuote>, StatusCode> {
    let zones = || ZONES.map(str::to_owned).to_vec();
    let (supply, demand) = tokio::try_join!(
        caller
            .supply
            .get_supply(GetSupplyRequest { zones: zones() }),
        caller
            .demand
            .get_demand(GetDemandRequest { zones: zones() }),
    )
    .map_err(|_| StatusCode::BAD_GATEWAY)?;
    let supply = supply
        .get_ref()
        .levels
        .first()
        .map(|level| level.predicted_drivers);
    let demand = demand
        .get_ref()
        .levels
        .first()
        .map(|level| level.expected_requests);
    let (supply, demand) = supply.zip(demand).ok_or(StatusCode::BAD_GATEWAY)?;
    Ok(Json(FloorQuote::of(&headers, &trip, supply, demand)))
}

/// Answers both kinds of call until `end`.
pub(crate) async fn serve_callee(
    listener: TcpListener,
    end: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let connections = TcpListenerStream::new(listener).map(|connection| {
        connection.inspect(|connection| {
            let _ = connection.set_nodelay(true);
        })
    });
    let served = Server::builder()
        .add_service(SupplyServiceServer::new(BareCallee))
        .add_service(DemandServiceServer::new(BareCallee))
        .serve_with_incoming(connections);
    tokio::select! {
        served = served => Ok(served?),
        () = end => Ok(()),
    }
}

struct BareCallee;

#[tonic::async_trait]
impl DemandService for BareCallee {
    async fn get_demand(
        &self,
        request: Request<GetDemandRequest>,
    ) -> Result<Response<GetDemandResponse>, Status> {
        let level = |zone| DemandLevel {
            zone,
            expected_requests: 12.443_506_421_359_25,
            as_of: Some(surge_proto::convert::timestamp(AS_OF)),
        };
        let levels = request.into_inner().zones.into_iter().map(level).collect();
        Ok(Response::new(GetDemandResponse { levels }))
    }
}

#[tonic::async_trait]
impl SupplyService for BareCallee {
    async fn get_supply(
        &self,
        request: Request<GetSupplyRequest>,
    ) -> Result<Response<GetSupplyResponse>, Status> {
        let level = |zone| SupplyLevel {
            zone,
            predicted_drivers: 7.0,
            as_of: Some(surge_proto::convert::timestamp(AS_OF)),
        };
        let levels = request.into_inner().zones.into_iter().map(level).collect();
        Ok(Response::new(GetSupplyResponse { levels }))
    }

    async fn report_positions(
        &self,
        _: Request<Streaming<ReportPositionsRequest>>,
    ) -> Result<Response<ReportPositionsResponse>, Status> {
        Err(no_fleet())
    }

    async fn dispatch(
        &self,
        _: Request<DispatchRequest>,
    ) -> Result<Response<DispatchResponse>, Status> {
        Err(no_fleet())
    }

    async fn release(
        &self,
        _: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        Err(no_fleet())
    }
}

/// An evening of 2014.
const AS_OF: marketplace::MarketTime = marketplace::MarketTime::from_millis(1_396_646_400_000);

fn no_fleet() -> Status {
    Status::unimplemented("a floor has no fleet")
}

#[cfg(test)]
mod tests {
    use crate::http::tests::answer_of;

    use super::*;

    async fn callee() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve_callee(listener, std::future::pending()));
        url
    }

    #[tokio::test]
    async fn quote_has_levels_of_both_callees() {
        let router = caller(callee().await, callee().await).unwrap();
        let quote = answer_of(router).await.unwrap();
        assert_eq!(quote["supply"], 7.0);
        assert_eq!(quote["demand"], 12.443_506_421_359_25);
    }

    #[tokio::test]
    async fn without_a_callee_there_is_no_quote() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", gone.local_addr().unwrap());
        drop(gone);
        let refused = answer_of(caller(callee().await, url).unwrap()).await;
        assert_eq!(refused.unwrap_err(), StatusCode::BAD_GATEWAY);
    }
}
