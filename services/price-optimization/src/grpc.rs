//! The gRPC edge, with the standard health and reflection services beside our own.

use platform::{fault::Fault, grpc::with_standard_services};
use surge_proto::{
    DataflowMode, FILE_DESCRIPTOR_SET,
    convert::{Malformed, position, timestamp},
    v1::{
        self, GetQuoteRequest, GetQuoteResponse,
        quote_service_server::{QuoteService, QuoteServiceServer},
    },
};
use tonic::{Request, Response, Status, service::Routes};

use crate::{app::App, pricing::SignedQuote};

/// The services of this process.
pub(crate) async fn routes(app: App) -> anyhow::Result<Routes> {
    let quotes = QuoteServiceServer::new(Quotes(app));
    Ok(with_standard_services(quotes, FILE_DESCRIPTOR_SET).await?)
}

struct Quotes(App);

#[tonic::async_trait]
impl QuoteService for Quotes {
    async fn get_quote(
        &self,
        request: Request<GetQuoteRequest>,
    ) -> Result<Response<GetQuoteResponse>, Status> {
        let request = request.into_inner();
        let pickup = position("pickup", request.pickup).map_err(invalid)?;
        let dropoff = position("dropoff", request.dropoff).map_err(invalid)?;
        let mode = DataflowMode::from_wire(request.dataflow)
            .map_err(|error| Fault::invalid("dataflow", error))?;
        let signed = self.0.pricing().quote(pickup, dropoff, mode).await;
        Ok(Response::new(signed.map_err(Fault::from)?.into()))
    }
}

fn invalid(malformed: Malformed) -> Status {
    Fault::invalid(malformed.field, malformed.problem).into()
}

impl From<SignedQuote> for GetQuoteResponse {
    fn from(signed: SignedQuote) -> Self {
        Self {
            quote_id: signed.quote.quote_id.to_string(),
            fare_cents: signed.quote.fare_cents,
            currency: "USD".to_owned(),
            surge_multiplier_tenths: u32::from(signed.price.multiplier.tenths()),
            zone: signed.quote.zone.to_string(),
            dataflow: v1::Dataflow::from(signed.dataflow).into(),
            epoch: signed.epoch,
            supply: signed.price.supply,
            demand: signed.price.demand,
            data_age_ms: signed.data_age.map(|age| age.as_secs_f64() * 1_000.0),
            degraded: signed.price.degraded,
            expires_at: Some(timestamp(signed.quote.expires_at)),
            token: signed.token,
        }
    }
}
