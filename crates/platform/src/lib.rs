//! What every service stands on, and nothing about rides: telemetry and its propagation, health, faults, shutdown,
//! the market clock, and the edges to HTTP, gRPC, PostgreSQL and NATS. A service composes these in its `lib.rs`.

pub mod balance;
pub mod clock;
pub mod config;
mod connection;
pub mod deadline;
pub mod fault;
pub mod grpc;
pub mod health;
pub mod http;
pub mod lease;
pub mod level_feed;
pub mod metrics;
pub mod nats;
pub mod origins;
pub mod outage;
pub mod outbox;
pub mod postgres;
pub mod process;
mod prompt;
pub mod propagation;
pub mod replicas;
mod resource;
pub mod sampling;
pub mod schema;
pub mod serve;
mod shard_channel;
mod shards;
pub mod shutdown;
pub mod telemetry;
mod turns;
