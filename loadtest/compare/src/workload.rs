//! How quotes are asked: the choices of the command line that the report repeats.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use engine::{Schedule, Transport};

/// How the arrivals of the measurement follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// At even distances, so that a delay is not the load's own doing.
    #[default]
    Constant,
    /// A Poisson process, seeded by `--seed`: now and then several at once, as in life.
    Poisson,
}

impl Arrivals {
    /// The schedule of a measurement.
    pub(crate) fn schedule(self, rate: u32, length: Duration, seed: u64) -> Schedule {
        match self {
            Self::Constant => Schedule::constant(rate, length),
            Self::Poisson => Schedule::poisson(rate, length, seed),
        }
    }

    /// What a reader must know of it beside the rate.
    pub(super) const fn in_words(self) -> &'static str {
        match self {
            Self::Constant => "",
            Self::Poisson => " on average (Poisson arrivals)",
        }
    }
}

/// What a reader must know of the transport.
pub(super) const fn over(transport: Transport) -> &'static str {
    match transport {
        Transport::Http => "",
        Transport::Grpc => " over gRPC",
    }
}
