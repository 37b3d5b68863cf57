//! The parts that every service has in common, and nothing about rides. A service composes them in
//! its `lib.rs`.
//!
//! * The life of a process: [`config`], [`service_config`], [`process`], [`start_up`],
//!   [`background`], [`shutdown`].
//! * Edges and servers: [`http`], [`grpc`], [`serve`], [`postgres`], [`schema`], [`nats`].
//! * What others see of it: [`health`], [`fault`], [`metrics`], [`telemetry`], [`sampling`],
//!   [`propagation`].
//! * [`clock`]: market time.

pub mod background;
pub mod clock;
pub mod config;
pub mod fault;
pub mod grpc;
pub mod health;
pub mod http;
mod identity;
pub mod metrics;
pub mod nats;
pub mod openapi;
pub mod postgres;
pub mod process;
pub mod propagation;
pub mod sampling;
pub mod schema;
pub mod serve;
pub mod service_config;
pub mod shutdown;
pub mod start_up;
pub mod telemetry;
