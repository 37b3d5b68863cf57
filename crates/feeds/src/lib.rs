//! How state leaves a service, and how a replica follows another: the outbox, the publisher of levels, the lease that
//! says which replica publishes, the change log of the replicas, and the links from a message back to its causes.

pub mod lease;
pub mod level_feed;
pub mod origins;
pub mod outbox;
pub mod replicas;
