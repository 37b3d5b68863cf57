//! Looks at the multipliers of the whole city a few times during a measurement: three calls each, beside hundreds a second.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::HeaderValue;
use http_body_util::Full;
use marketplace::{Multiplier, Zone};
use serde::Deserialize;
use surge_proto::DataflowMode;
use tokio::time::Instant;

use super::Moment;
use crate::client::Client;
use crate::clock::MarketClock;
use crate::compare::measure::Oracle;

/// Moments of one measurement, evenly spaced.
const MOMENTS: u32 = 6;

/// New York has a hundred; a service area so large that nobody could see its zones on a page has no map.
const MOST_ZONES: usize = 400;

/// Asks for the multipliers of all zones.
pub(crate) struct Surveyor {
    /// Not the load's: its quotes must not wait behind a map.
    pub(crate) client: Client,
    /// Base URL of price-optimization.
    pub(crate) price: String,
    pub(crate) clock: MarketClock,
    pub(crate) modes: Vec<DataflowMode>,
    pub(crate) oracle: Oracle,
}

impl Surveyor {
    /// Looks [`MOMENTS`] times within `length`; a moment at which nobody answered is missing.
    pub(crate) async fn survey(&self, length: Duration) -> Vec<Moment> {
        let started = Instant::now();
        let mut moments = Vec::new();
        for number in 0..MOMENTS {
            // In the middle of each part, so that neither the first nor the last call is outside the measurement.
            let share = (f64::from(number) + 0.5) / f64::from(MOMENTS);
            tokio::time::sleep_until(started + length.mul_f64(share)).await;
            moments.extend(self.moment(started.elapsed()).await);
        }
        moments
    }

    async fn moment(&self, since_start: Duration) -> Option<Moment> {
        let market_time = self.clock.now();
        let mut quoted = BTreeMap::new();
        for &mode in &self.modes {
            if let Some(zones) = self.multipliers(mode).await {
                quoted.insert(mode, zones);
            }
        }
        let zones = quoted
            .values()
            .next()
            .filter(|zones| zones.len() <= MOST_ZONES)?
            .keys();
        Some(Moment {
            market_time: market_time.to_string(),
            at_s: (since_start.as_secs_f64() * 10.0).round() / 10.0,
            oracle: zones
                .filter_map(|&zone| Some((zone, (self.oracle)(zone)?)))
                .collect(),
            quoted,
        })
    }

    /// What a mode would quote in each zone; none when it does not say: the quotes themselves tell of failures.
    async fn multipliers(&self, mode: DataflowMode) -> Option<BTreeMap<Zone, Multiplier>> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = format!("{}/v1/surge", self.price).parse().ok()?;
        let name = HeaderValue::from_static(mode.as_str());
        request.headers_mut().insert("surge-dataflow", name);
        let answer = self.client.call(request).await.ok()?;
        let map: WireMap = answer.json().ok()?;
        let zones = map.zones.into_iter();
        (map.dataflow == mode).then(|| zones.map(WireZone::pair).collect())
    }
}

/// The map as the service writes it, as far as it is drawn.
#[derive(Deserialize)]
struct WireMap {
    dataflow: DataflowMode,
    zones: Vec<WireZone>,
}

#[derive(Deserialize)]
struct WireZone {
    zone: Zone,
    surge_multiplier: Multiplier,
}

impl WireZone {
    fn pair(self) -> (Zone, Multiplier) {
        (self.zone, self.surge_multiplier)
    }
}
