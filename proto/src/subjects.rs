//! Names on NATS: streams, subjects and the headers of a message.
//!
//! Each stream has one producer, and the comments below name it; no other service may publish
//! there.

use marketplace::zone::Zone;

/// A JetStream stream: its name and its subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Name of the stream.
    pub name: &'static str,
    /// Wildcard of every subject in it.
    pub subjects: &'static str,
}

/// Levels and watermarks of supply. Producer: driver-management.
pub const SUPPLY: Stream = Stream {
    name: "SUPPLY",
    subjects: "surge.v1.supply.>",
};

/// Levels and watermarks of demand. Producer: ride-management.
pub const DEMAND: Stream = Stream {
    name: "DEMAND",
    subjects: "surge.v1.demand.>",
};

/// States that rides entered. Producer: ride-management.
pub const RIDES: Stream = Stream {
    name: "RIDES",
    subjects: "surge.v1.rides.>",
};

/// Pickups and drop-offs. Producer: driver-management; ride-management follows the stream to update
/// its rides. It is separate from `SUPPLY`, whose subscribers need only levels, in order with their
/// watermarks.
pub const TRIPS: Stream = Stream {
    name: "TRIPS",
    subjects: "surge.v1.trips.>",
};

/// Messages that a subscriber could not process, with the reason. Producer: that subscriber.
pub const DEAD: Stream = Stream {
    name: "DEAD",
    subjects: "surge.dead.>",
};

/// All streams.
pub const STREAMS: [Stream; 5] = [SUPPLY, DEMAND, RIDES, TRIPS, DEAD];

/// Subject of the watermarks of supply.
pub const SUPPLY_WATERMARK: &str = "surge.v1.supply.watermark";

/// Subject of the watermarks of demand.
pub const DEMAND_WATERMARK: &str = "surge.v1.demand.watermark";

/// Key-value bucket of the control plane. Written by: price-optimization.
pub const CONTROL_BUCKET: &str = "surge-control";

/// Key of the dataflow mode in [`CONTROL_BUCKET`].
pub const CONTROL_DATAFLOW_KEY: &str = "dataflow";

/// Header that names the message type of the payload, for example `surge.v1.SupplyLevel`.
pub const SCHEMA_HEADER: &str = "Surge-Schema";

/// Subject of one zone's supply.
pub fn supply_of(zone: Zone) -> String {
    format!("surge.v1.supply.zone.{zone}")
}

/// Subject of one zone's demand.
pub fn demand_of(zone: Zone) -> String {
    format!("surge.v1.demand.zone.{zone}")
}

/// Subject of messages that a subscriber of `stream` could not process.
pub fn dead_letter(stream: Stream) -> String {
    format!("surge.dead.{}", stream.name)
}
