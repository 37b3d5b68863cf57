//! Market time on the wire: RFC 3339, in whatever precision the sender writes.

use chrono::{DateTime, Utc};
use marketplace::MarketTime;
use serde::{Deserialize, Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(
    time: &MarketTime,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<MarketTime, D::Error> {
    DateTime::<Utc>::deserialize(deserializer).map(MarketTime::from)
}

/// The same, or null.
pub(crate) mod if_any {
    use serde::Serialize;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<MarketTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|time| time.to_string()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<MarketTime>, D::Error> {
        let time = Option::<DateTime<Utc>>::deserialize(deserializer)?;
        Ok(time.map(MarketTime::from))
    }
}
