//! The parts of the stack. Their names are those of the log files and of the rows of `status`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The role of a process of the local stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The private PostgreSQL.
    Postgres,
    /// The private nats-server.
    Nats,
    /// The trace collector with the Jaeger UI.
    TraceView,
    /// The supply service.
    DriverManagement,
    /// The demand service.
    RideManagement,
    /// The price service.
    PriceOptimization,
    /// The batch job behind the `database` dataflow.
    Batch,
    /// The simulated city.
    City,
}

impl Part {
    /// The parts of every stack, behind those they depend on. Some stacks have a city too.
    pub const ALL: [Self; 7] = [
        Self::Postgres,
        Self::Nats,
        Self::TraceView,
        Self::DriverManagement,
        Self::RideManagement,
        Self::PriceOptimization,
        Self::Batch,
    ];

    /// The three services.
    pub const SERVICES: [Self; 3] = [
        Self::DriverManagement,
        Self::RideManagement,
        Self::PriceOptimization,
    ];

    /// The name of the part and of its log file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Nats => "nats",
            Self::TraceView => "trace-view",
            Self::DriverManagement => "driver-management",
            Self::RideManagement => "ride-management",
            Self::PriceOptimization => "price-optimization",
            Self::Batch => "batch",
            Self::City => "city",
        }
    }
}

/// One process of the local stack: a part, and which replica of a service or node of NATS it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Its role.
    pub part: Part,
    /// 1 is the first.
    pub number: u8,
}

impl Member {
    /// Most replicas of a service, and nodes of NATS.
    pub const MOST: u8 = 5;

    /// Its place in a list of its kind.
    pub(super) fn index(self) -> usize {
        usize::from(self.number.saturating_sub(1))
    }

    /// The first `count` processes of a part.
    pub fn first(part: Part, count: u8) -> impl Iterator<Item = Self> {
        (1..=count).map(move |number| Self { part, number })
    }
}

impl From<Part> for Member {
    fn from(part: Part) -> Self {
        Self { part, number: 1 }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            1 => self.part.fmt(f),
            number => f.pad(&format!("{}-{number}", self.part)),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
