//! From the rows of a batch run to the levels that it writes: the forecasts that the other services
//! would make themselves, from their tables.
//!
//! ```text
//! supply of a zone = idle drivers + drop-offs due within the window      (marketplace::supply)
//! demand of a zone = gamma-Poisson filter over the past windows          (marketplace::demand)
//! ```

use std::{collections::HashMap, sync::Arc, time::Duration};

use marketplace::{
    demand::{DemandForecaster, DemandProfile, FilterSettings},
    supply::predicted_available,
    view::{Level, ZoneLevels},
    zone::{ServiceArea, Zone},
};

use crate::store::{DemandRow, DemandWatermark, SupplyRow, SupplyWatermark};

/// Makes the levels of every zone of the area.
#[derive(Debug)]
pub(super) struct Forecaster {
    pub(super) area: ServiceArea,
    pub(super) profile: Arc<DemandProfile>,
    /// How far ahead supply is predicted, in market time.
    pub(super) supply_window: Duration,
}

impl Forecaster {
    /// The levels of every zone, each as of the watermark of its view.
    pub(super) fn levels(
        &self,
        (supply_watermark, supply_rows): (&SupplyWatermark, &[SupplyRow]),
        (demand_watermark, demand_rows): (&DemandWatermark, &[DemandRow]),
    ) -> Vec<ZoneLevels> {
        let supply = self.supply(supply_watermark, supply_rows);
        let demand = self.demand(demand_watermark, demand_rows);
        let levels = self.area.zones().iter().zip(supply).zip(demand);
        let levels = levels.map(|((zone, supply), demand)| ZoneLevels {
            zone: *zone,
            supply: Some(supply),
            demand: Some(demand),
        });
        levels.collect()
    }

    fn supply(&self, watermark: &SupplyWatermark, rows: &[SupplyRow]) -> Vec<Level> {
        let as_of = watermark.as_of.into();
        let rows: HashMap<&str, &SupplyRow> =
            rows.iter().map(|row| (row.zone.as_str(), row)).collect();
        let level = |zone: &Zone| {
            let row = rows.get(zone.to_string().as_str());
            let idle = row.map_or(0, |row| usize::try_from(row.idle_drivers).unwrap_or(0));
            let due = row.into_iter().flat_map(|row| &row.dropoffs_due_at);
            let due = due.map(|due_at| (*due_at).into());
            Level {
                value: predicted_available(idle, due, as_of, self.supply_window),
                as_of,
            }
        };
        self.area.zones().iter().map(level).collect()
    }

    /// The filter of ride-management, fed from its table.
    fn demand(&self, watermark: &DemandWatermark, rows: &[DemandRow]) -> Vec<Level> {
        let as_of = watermark.as_of.into();
        let window = Duration::from_secs(u64::try_from(watermark.window_seconds).unwrap_or(300));
        let mut forecaster = DemandForecaster::new(
            Arc::clone(&self.profile),
            self.area.zones(),
            window,
            watermark.observed_since.into(),
            FilterSettings::default(),
        );
        for row in rows {
            if let (Ok(zone), Ok(requests)) = (row.zone.parse(), u32::try_from(row.requests)) {
                forecaster.record_count(zone, row.window_start.into(), requests);
            }
        }
        let forecasts = forecaster.forecasts(self.area.zones(), as_of);
        forecasts
            .into_iter()
            .map(|value| Level { value, as_of })
            .collect()
    }
}
