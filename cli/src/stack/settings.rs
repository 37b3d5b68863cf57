//! The settings of a local stack. The defaults are those of `./surge up`: a Friday evening of April
//! 2014 at sixty times the speed of life.

use std::{path::PathBuf, time::Duration};

use marketplace::{Bounds, MarketTime};
use surge_proto::DataflowMode;

use super::Ports;

/// Where a stack keeps its state, relative to the project.
pub const STATE_DIR: &str = ".surge";

/// The trained demand profile that comes with the project.
pub const DEMAND_PROFILE: &str = "data/demand-profile.json";

/// Friday 2014-04-04, 17:00 in New York: the bundled evening begins.
pub const FRIDAY_EVENING: MarketTime = MarketTime::from_millis(1_396_645_200_000);

/// The settings of a local stack.
#[derive(Clone, Debug)]
pub struct StackSettings {
    /// Folder of logs, state and private servers; one stack runs in it at a time.
    pub state_dir: PathBuf,
    /// The `surge` executable that runs the services; `None` for the running one.
    pub executable: Option<PathBuf>,
    /// Which ports to take.
    pub ports: Ports,
    /// The time of the market clock when the stack starts.
    pub start: MarketTime,
    /// Market seconds per real second.
    pub speed: f64,
    /// The dataflow of quotes that name none.
    pub mode: DataflowMode,
    /// Period of the batch job, in market time.
    pub batch_every: Duration,
    /// The trained demand profile.
    pub demand_profile: PathBuf,
    /// The area that the services and the city serve.
    pub service_area: Bounds,
    /// The number of processes of each service, at most
    /// [`Member::MOST`](super::Member::MOST).
    pub replicas: u8,
    /// The number of NATS nodes, each with a copy of every stream: 1, 3 or 5.
    pub nats_nodes: u8,
    /// The options of the city that uses the stack; `None` for a stack without a city.
    pub city: Option<Vec<String>>,
}

impl Default for StackSettings {
    fn default() -> Self {
        Self {
            state_dir: STATE_DIR.into(),
            executable: None,
            ports: Ports::default(),
            start: FRIDAY_EVENING,
            speed: 60.0,
            mode: DataflowMode::Database,
            batch_every: Duration::from_secs(5 * 60),
            demand_profile: DEMAND_PROFILE.into(),
            service_area: Bounds::NEW_YORK,
            replicas: 1,
            nats_nodes: 1,
            city: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_evening_begins_at_five() {
        assert_eq!(
            Ok(FRIDAY_EVENING),
            "2014-04-04T17:00:00-04:00".parse::<MarketTime>()
        );
    }
}
