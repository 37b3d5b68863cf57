//! The whole exchange from the outside: every file tells one story about real processes, over the
//! public APIs, with nothing replaced. Each test has a stack of its own, so that it may kill any
//! part of it.

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

#[path = "../suite/support.rs"]
#[expect(dead_code, reason = "the other test program uses the rest of it")]
mod stack_support;
