//! price-optimization on a real PostgreSQL and a real NATS, story by story.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod batch;
mod broker;
mod dataflows;
mod edges;
mod explain;
mod mode;
mod schema;
mod support;
