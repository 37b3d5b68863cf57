//! What every service stands on, and nothing about rides: telemetry and its propagation, health, faults, shutdown,
//! the market clock, and the edges to HTTP, gRPC, PostgreSQL and NATS. A service composes these in its `lib.rs`.

pub mod background;
pub mod balance;
pub mod clock;
pub mod config;
mod connection;
pub mod deadline;
pub mod fault;
pub mod grpc;
pub mod health;
pub mod http;
pub mod metrics;
pub mod nats;
pub mod postgres;
pub mod process;
mod prompt;
pub mod propagation;
mod resource;
pub mod sampling;
pub mod schema;
pub mod serve;
mod shard_channel;
mod shards;
pub mod shutdown;
pub mod start_up;
pub mod telemetry;
mod turns;
