//! The whole exchange from outside: real processes, used through their public APIs, nothing
//! replaced. Each test has a stack of its own, so that it can kill any part of it.

mod api;
mod cluster;
mod collector;
mod containers;
mod dashboards;
mod data_age;
mod durability;
mod hostile;
mod independence;
mod journey;
mod metrics;
mod replicas;
mod rides;
mod same_market;
mod support;
mod switching;
mod traces;
mod waiting;

#[path = "../suite/support.rs"]
#[expect(dead_code, reason = "the other test program uses the rest of it")]
mod stack_support;
