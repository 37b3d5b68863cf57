//! The settings that all services have in common. Each service flattens this struct into its own
//! configuration, so that a setting has one name, one default and one help text in the whole suite.

use std::net::SocketAddr;

use clap::Args;

use crate::{clock::ClockConfig, nats, schema::SchemaConfig};

/// Settings of a service: its addresses, its servers and its clock. The addresses have no default
/// here: each service has ports of its own, and adds them with `mut_arg`.
#[derive(Args, Clone, Debug)]
pub struct ServiceConfig {
    /// Address of REST, health and metrics.
    #[arg(long, env = "HTTP_ADDR")]
    pub http_addr: SocketAddr,

    /// Address of gRPC.
    #[arg(long, env = "GRPC_ADDR")]
    pub grpc_addr: SocketAddr,

    /// PostgreSQL, as the role of this service: postgres://ROLE:PASSWORD@HOST:PORT/DATABASE.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,

    /// NATS with JetStream; of a cluster the URLs of all nodes, with commas between. The service
    /// also works while it is away.
    #[arg(
        long,
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true
    )]
    pub nats_url: String,

    /// TLS to NATS.
    #[command(flatten)]
    pub nats_tls: nats::NatsTls,

    /// Number of nodes of a NATS cluster that keep each stream: 1, 3 or 5.
    #[arg(
        long,
        env = "STREAM_REPLICAS",
        default_value = "1",
        value_parser = nats::stream_replicas
    )]
    pub stream_replicas: usize,

    /// The schema.
    #[command(flatten)]
    pub schema: SchemaConfig,

    /// The market clock.
    #[command(flatten)]
    pub clock: ClockConfig,
}
