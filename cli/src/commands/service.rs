//! `surge service NAME`: runs one process of the suite in this executable.

use std::{iter, net::SocketAddr, process::ExitCode};

use clap::{Parser, ValueEnum as _};
use platform::process::{self, Identity};
use trace_view::{Collector, Limits};

use crate::cli::{ServiceArgs, ServiceName};

const TRACE_VIEW: Identity = Identity {
    name: "trace-view",
    version: env!("CARGO_PKG_VERSION"),
};

/// trace-view: collects traces over OTLP and shows them in the Jaeger UI.
#[derive(Debug, Parser)]
#[command(name = "trace-view", version)]
struct TraceViewConfig {
    /// Address of the Jaeger UI.
    #[arg(long, env = "TRACE_UI_ADDR", default_value = "127.0.0.1:7186")]
    ui_addr: SocketAddr,

    /// Address where spans are received, OTLP over gRPC.
    #[arg(long, env = "OTLP_ADDR", default_value = "127.0.0.1:7217")]
    otlp_addr: SocketAddr,
}

/// Runs the service until a signal asks it to end.
pub(crate) fn run(args: ServiceArgs) -> ExitCode {
    let name = args.name.to_possible_value();
    let name = name.map_or_else(String::new, |name| name.get_name().to_owned());
    let arguments = iter::once(name).chain(args.arguments).collect();
    match args.name {
        ServiceName::DriverManagement => driver_management::main(arguments),
        ServiceName::RideManagement => ride_management::main(arguments),
        ServiceName::PriceOptimization => price_optimization::main(arguments),
        ServiceName::TraceView => collect_traces(arguments),
    }
}

fn collect_traces(arguments: Vec<String>) -> ExitCode {
    process::run(
        TRACE_VIEW,
        arguments,
        |config: TraceViewConfig, token| async move {
            let collector =
                Collector::bind(config.ui_addr, config.otlp_addr, Limits::default()).await?;
            collector.run(token.cancelled_owned()).await
        },
    )
}
