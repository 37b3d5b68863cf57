//! ride-management as its callers see it: over REST, gRPC, NATS and the published views, against a
//! real PostgreSQL and a real nats-server of each test's own. Every REST answer that a test sees is
//! also held against the OpenAPI document.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, also in the functions that tests share"
)]

mod demand;
mod drivers;
mod edges;
mod given_back;
mod outages;
mod replicas;
mod rides;
mod support;
