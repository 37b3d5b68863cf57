//! The names of what a feed comes by, and its half of whatever has one for each feed.

use marketplace::{
    view::{Level, ZoneLevels},
    zone::Zone,
};
use surge_proto::subjects::{self, DEMAND, DEMAND_WATERMARK, SUPPLY, SUPPLY_WATERMARK};

use crate::{
    dataflow::passage::{Deliveries, Delivery},
    journey::FeedName,
};

impl FeedName {
    pub(super) fn of(self, levels: &ZoneLevels) -> Option<Level> {
        match self {
            Self::Supply => levels.supply,
            Self::Demand => levels.demand,
        }
    }

    pub(super) fn delivered(self, deliveries: &Deliveries) -> Option<Delivery> {
        match self {
            Self::Supply => deliveries.supply,
            Self::Demand => deliveries.demand,
        }
    }

    pub(super) fn producer(self) -> &'static str {
        match self {
            Self::Supply => "driver-management",
            Self::Demand => "ride-management",
        }
    }

    pub(super) fn view(self) -> &'static str {
        match self {
            Self::Supply => "driver.supply_by_zone",
            Self::Demand => "ride.demand_by_zone_window",
        }
    }

    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Supply => "surge.v1.SupplyService/GetSupply",
            Self::Demand => "surge.v1.DemandService/GetDemand",
        }
    }

    pub(super) fn stream(self) -> &'static str {
        match self {
            Self::Supply => SUPPLY.name,
            Self::Demand => DEMAND.name,
        }
    }

    pub(super) fn watermark(self) -> &'static str {
        match self {
            Self::Supply => SUPPLY_WATERMARK,
            Self::Demand => DEMAND_WATERMARK,
        }
    }

    pub(super) fn subject(self, zone: Zone) -> String {
        match self {
            Self::Supply => subjects::supply_of(zone),
            Self::Demand => subjects::demand_of(zone),
        }
    }
}
