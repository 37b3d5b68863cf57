//! Asks for the multipliers of the whole city a few times during a measurement: three calls each,
//! beside hundreds per second.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use city::Client;
use city::clock::CityClock;
use http::Request;
use http::header::HeaderValue;
use http_body_util::Full;
use marketplace::{Multiplier, Zone};
use serde::Deserialize;
use surge_proto::DataflowMode;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::round_robin::Oracle;
use crate::report::Moment;

/// Moments of one measurement, evenly spaced.
const MOMENTS: u32 = 6;

/// New York has a hundred; a service area so large that nobody could see its zones on a page has no
/// map.
const MOST_ZONES: usize = 400;

pub(crate) struct PriceMap {
    /// Not that of the load: its quotes must not wait behind a map.
    pub(crate) client: Client,
    /// Base URL of price-optimization.
    pub(crate) price: String,
    pub(crate) clock: CityClock,
    pub(crate) modes: Vec<DataflowMode>,
    pub(crate) zones: Vec<Zone>,
    pub(crate) oracle: Oracle,
}

impl PriceMap {
    /// Asks [`MOMENTS`] times within `length`; a moment at which no mode answered is missing.
    pub(crate) async fn record(&self, length: Duration) -> Vec<Moment> {
        let started = Instant::now();
        let mut moments = Vec::new();
        let count = if self.zones.len() > MOST_ZONES {
            0
        } else {
            MOMENTS
        };
        for number in 0..count {
            // In the middle of each part, so that neither the first nor the last call is outside
            // the measurement.
            let share = (f64::from(number) + 0.5) / f64::from(MOMENTS);
            tokio::time::sleep_until(started + length.mul_f64(share)).await;
            moments.extend(self.moment(started.elapsed()).await);
        }
        moments
    }

    /// All modes at the same time, and the oracle while their requests are on their way.
    async fn moment(&self, since_start: Duration) -> Option<Moment> {
        let market_time = self.clock.now();
        let mut calls = JoinSet::new();
        for &mode in &self.modes {
            let (client, price) = (self.client.clone(), self.price.clone());
            calls.spawn(async move { Some((mode, multipliers(&client, &price, mode).await?)) });
        }
        let right = |&zone| Some((zone, (self.oracle)(zone)?));
        let oracle = self.zones.iter().filter_map(right).collect();
        let quoted: BTreeMap<_, _> = calls.join_all().await.into_iter().flatten().collect();
        (!quoted.is_empty()).then(|| Moment {
            market_time: market_time.to_string(),
            at_s: crate::statistics::rounded(since_start.as_secs_f64(), 1),
            oracle,
            quoted,
        })
    }
}

/// What a mode would quote in each zone; `None` without an answer, since the quotes themselves show
/// failures.
async fn multipliers(
    client: &Client,
    price: &str,
    mode: DataflowMode,
) -> Option<BTreeMap<Zone, Multiplier>> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.uri_mut() = format!("{price}/v1/surge").parse().ok()?;
    let name = HeaderValue::from_static(mode.as_str());
    request.headers_mut().insert("surge-dataflow", name);
    let answer = client.call(request).await.ok()?;
    let map: SurgeAnswer = answer.json().ok()?;
    let zones = map
        .zones
        .into_iter()
        .map(|zone| (zone.zone, zone.surge_multiplier));
    (map.dataflow == mode).then(|| zones.collect())
}

/// The answer of `/v1/surge`, as far as it is drawn.
#[derive(Deserialize)]
struct SurgeAnswer {
    dataflow: DataflowMode,
    zones: Vec<SurgeOfZone>,
}

#[derive(Deserialize)]
struct SurgeOfZone {
    zone: Zone,
    surge_multiplier: Multiplier,
}
