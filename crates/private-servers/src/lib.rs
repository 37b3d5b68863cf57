//! Private PostgreSQL and nats-server instances as child processes, for the local stack and for
//! tests.
//!
//! Each instance has its own folder, free loopback port and generated password, and ends with the
//! process that started it, whatever ends that process. Nothing here knows of rides, and nothing
//! here installs software: [`find_postgres`] and [`find_nats`] say what is missing and how to get
//! it. Unix only.

mod account;
mod binaries;
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
pub use error::Error;
pub use instance::sweep_stale;
pub use log::last_lines;
pub use nats::{Membership, Nats, NatsSettings};
pub use nats_cluster::{NatsCluster, NodeSettings};
pub use password::Password;
pub use ports::free_port;
pub use postgres::{Postgres, PostgresSettings};
pub use spawn::spawn_tied;
