//! What every service stands on, and nothing about rides: telemetry and its propagation, health, faults, shutdown,
//! the market clock, and the edges to HTTP, gRPC, PostgreSQL and NATS. A service composes these in its `lib.rs`.

pub mod background;
pub mod clock;
pub mod config;
pub mod fault;
pub mod grpc;
pub mod health;
pub mod http;
pub mod metrics;
pub mod nats;
pub mod postgres;
pub mod process;
pub mod propagation;
mod resource;
pub mod sampling;
pub mod schema;
pub mod serve;
pub mod shutdown;
pub mod start_up;
pub mod telemetry;
