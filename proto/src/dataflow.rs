//! The names of the three dataflows, the ways in which supply and demand reach the price.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::v1;

/// A dataflow mode: `database`, `request` or `events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub enum DataflowMode {
    /// A batch job aggregates the shared database; the quote reads its rows.
    Database,
    /// The quote asks both services over gRPC and waits.
    Request,
    /// Both services publish to JetStream; the quote reads local state.
    Events,
}

impl DataflowMode {
    /// Every mode, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Database, Self::Request, Self::Events];

    /// The name on the wire, in metrics and in spans.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Request => "request",
            Self::Events => "events",
        }
    }

    /// The mode that a gRPC request names; `None` if it names none.
    ///
    /// # Errors
    /// A number that no mode has.
    pub fn from_wire(value: i32) -> Result<Option<Self>, UnknownMode> {
        match v1::Dataflow::try_from(value) {
            Ok(v1::Dataflow::Unspecified) => Ok(None),
            Ok(v1::Dataflow::Database) => Ok(Some(Self::Database)),
            Ok(v1::Dataflow::Request) => Ok(Some(Self::Request)),
            Ok(v1::Dataflow::Events) => Ok(Some(Self::Events)),
            Err(_) => Err(UnknownMode(value.to_string())),
        }
    }
}

impl From<DataflowMode> for v1::Dataflow {
    fn from(mode: DataflowMode) -> Self {
        match mode {
            DataflowMode::Database => Self::Database,
            DataflowMode::Request => Self::Request,
            DataflowMode::Events => Self::Events,
        }
    }
}

impl fmt::Display for DataflowMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DataflowMode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str() == name)
            .ok_or_else(|| UnknownMode(name.chars().take(40).collect()))
    }
}

/// For JSON, where the derived form would also take `{"events":null}`.
impl TryFrom<String> for DataflowMode {
    type Error = UnknownMode;

    fn try_from(name: String) -> Result<Self, UnknownMode> {
        name.parse()
    }
}

/// A mode that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown dataflow mode \"{0}\"; allowed: database, request, events")]
pub struct UnknownMode(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_keeps_its_name_on_wires() {
        for mode in DataflowMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
            let wire = v1::Dataflow::from(mode) as i32;
            assert_eq!(DataflowMode::from_wire(wire), Ok(Some(mode)));
        }
        assert_eq!(DataflowMode::from_wire(0), Ok(None));
    }

    #[test]
    fn unknown_mode_error_lists_all_modes() {
        let error = "kafka".parse::<DataflowMode>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown dataflow mode \"kafka\"; allowed: database, request, events"
        );
        assert!(DataflowMode::from_wire(7).is_err());
    }
}
