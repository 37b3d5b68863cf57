//! Private PostgreSQL and nats-server instances as child processes, for the local stack and for
//! tests.
//!
//! # How this works
//!
//! Each instance has its own folder, free loopback port and generated password. It ends with the
//! process that started it, even if that process gets SIGKILL:
//!
//! ```text
//! our process ends by ...     server ends by ...               its folder is removed by ...
//! stop() or drop              SIGINT or SIGTERM from us        us
//! SIGKILL, power cut          the kernel's parent death signal the next process (sweep_stale)
//! ```
//!
//! This crate knows nothing of rides and installs nothing: [`find_postgres`] and [`find_nats`] say
//! what is missing and how to get it. Unix only.

mod account;
mod binaries;
mod environment;
mod error;
mod instance;
mod log;
mod nats;
mod nats_cluster;
mod password;
mod ports;
mod postgres;
mod process;
mod server;
mod spawn;

pub use binaries::{Missing, NatsBinary, PostgresBinaries, Version, find_nats, find_postgres};
pub use environment::{present, with_known_environment};
pub use error::Error;
pub use instance::sweep_stale;
pub use log::last_lines;
pub use nats::{ClusterMembership, Nats, NatsSettings};
pub use nats_cluster::{NatsCluster, NodeSettings};
pub use password::Password;
pub use ports::free_port;
pub use postgres::{Postgres, PostgresSettings};
pub use spawn::spawn_tied;
