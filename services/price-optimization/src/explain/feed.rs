//! The names under which a feed is known to PostgreSQL, gRPC and NATS.

use marketplace::{
    view::{Level, ZoneLevels},
    zone::Zone,
};
use surge_proto::subjects;

use crate::dataflow::provenance::FeedName;

/// The names of one feed.
pub(super) struct FeedNames {
    pub(super) producer: &'static str,
    pub(super) view: &'static str,
    pub(super) method: &'static str,
    pub(super) stream: &'static str,
    pub(super) watermark: &'static str,
    subject: fn(Zone) -> String,
}

const SUPPLY: FeedNames = FeedNames {
    producer: "driver-management",
    view: "driver.supply_by_zone",
    method: "surge.v1.SupplyService/GetSupply",
    stream: subjects::SUPPLY.name,
    watermark: subjects::SUPPLY_WATERMARK,
    subject: subjects::supply_of,
};

const DEMAND: FeedNames = FeedNames {
    producer: "ride-management",
    view: "ride.demand_by_zone_window",
    method: "surge.v1.DemandService/GetDemand",
    stream: subjects::DEMAND.name,
    watermark: subjects::DEMAND_WATERMARK,
    subject: subjects::demand_of,
};

impl FeedName {
    /// Supply, then demand.
    pub(super) const BOTH: [Self; 2] = [Self::Supply, Self::Demand];

    pub(super) const fn names(self) -> &'static FeedNames {
        match self {
            Self::Supply => &SUPPLY,
            Self::Demand => &DEMAND,
        }
    }

    /// The subject of the levels of `zone`.
    pub(super) fn subject(self, zone: Zone) -> String {
        (self.names().subject)(zone)
    }

    /// The level of this feed.
    pub(super) const fn level_of(self, levels: &ZoneLevels) -> Option<Level> {
        match self {
            Self::Supply => levels.supply,
            Self::Demand => levels.demand,
        }
    }
}
