//! The dataflow modes, the ways in which supply and demand reach the price, and what is particular
//! to each: one entry per mode in [`DataflowMode::profile`], for everything that names, shows or
//! measures modes. `docs/adding-a-mode.md` adds a fourth.

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

/// What is particular to a mode.
#[derive(Debug)]
pub struct ModeProfile {
    /// The name on the wire, in metrics and in spans.
    pub name: &'static str,
    /// The number in gRPC messages.
    pub wire: v1::Dataflow,
    /// Two sentences for the reader of a report.
    pub how_it_works: &'static str,
    /// The minimal server to which the mode is compared.
    pub floor: FloorKind,
    /// How the age of its data moves.
    pub ages: DataAges,
    /// The colour of its lines on light paper, from the palette of Okabe and Ito (2008), which
    /// people with any common colour blindness can distinguish.
    pub rgb: [u8; 3],
    /// The same hue, lighter, on dark paper.
    pub rgb_on_dark: [u8; 3],
    /// The dashes of its lines, for readers who see no colours: lengths of dash and gap in turn;
    /// none for a solid line.
    pub dashes: &'static [u32],
}

/// A minimal server on the same libraries, whose capacity is the floor of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloorKind {
    /// An HTTP handler that answers at once.
    Http,
    /// An HTTP handler with two concurrent gRPC calls.
    RpcFanout,
    /// An HTTP handler with one indexed SQL read.
    SqlRow,
}

/// How the age of a mode's data moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataAges {
    /// It grows from one batch run to the next, and then falls back.
    Batch,
    /// It stays about the same.
    Steady,
}

impl DataflowMode {
    /// Every mode, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Database, Self::Request, Self::Events];

    /// What is particular to this mode.
    pub const fn profile(self) -> &'static ModeProfile {
        match self {
            Self::Database => &ModeProfile {
                name: "database",
                wire: v1::Dataflow::Database,
                how_it_works: "Every few minutes a batch job reads what the other services publish \
                               in the shared database and writes a table of all zones. The quote \
                               reads that table.",
                floor: FloorKind::SqlRow,
                ages: DataAges::Batch,
                rgb: [0xD5, 0x5E, 0x00],
                rgb_on_dark: [0xFF, 0x9A, 0x4D],
                dashes: &[14, 7],
            },
            Self::Request => &ModeProfile {
                name: "request",
                wire: v1::Dataflow::Request,
                how_it_works: "The quote calls the two services that know supply and demand, and \
                               waits for both of them.",
                floor: FloorKind::RpcFanout,
                ages: DataAges::Steady,
                rgb: [0x00, 0x72, 0xB2],
                rgb_on_dark: [0x5C, 0xB8, 0xF0],
                dashes: &[],
            },
            Self::Events => &ModeProfile {
                name: "events",
                wire: v1::Dataflow::Events,
                how_it_works: "The two services publish every change. The quote reads the copy \
                               that price-optimization keeps in memory.",
                floor: FloorKind::Http,
                ages: DataAges::Steady,
                rgb: [0x00, 0x9E, 0x73],
                rgb_on_dark: [0x3F, 0xD6, 0xA8],
                dashes: &[4, 6],
            },
        }
    }

    /// The name on the wire, in metrics and in spans.
    pub const fn as_str(self) -> &'static str {
        self.profile().name
    }

    /// The mode that a gRPC request names; `None` if it names none.
    ///
    /// # Errors
    /// A number that no mode has.
    pub fn from_wire(value: i32) -> Result<Option<Self>, UnknownMode> {
        if value == v1::Dataflow::Unspecified as i32 {
            return Ok(None);
        }
        let mut modes = Self::ALL.into_iter();
        let mode = modes.find(|mode| mode.profile().wire as i32 == value);
        mode.map(Some).ok_or_else(|| UnknownMode(value.to_string()))
    }
}

impl From<DataflowMode> for v1::Dataflow {
    fn from(mode: DataflowMode) -> Self {
        mode.profile().wire
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
#[error(
    "unknown dataflow mode \"{0}\"; allowed: {names}",
    names = DataflowMode::ALL.map(DataflowMode::as_str).join(", ")
)]
pub struct UnknownMode(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_keeps_its_name_on_wires() {
        for mode in DataflowMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
            let in_json =
                serde::de::value::StrDeserializer::<serde::de::value::Error>::new(mode.as_str());
            assert_eq!(DataflowMode::deserialize(in_json), Ok(mode));
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
