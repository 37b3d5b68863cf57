//! Bare servers: what axum, tonic and sqlx alone can do on this machine.
//!
//! A dataflow is judged as a share of its floor: `events` of [`Floor::Http`], `request` of
//! [`Floor::RpcFanout`], `database` of [`Floor::SqlRow`]. A floor answers the same question with an
//! answer of the same size, over the same number of hops, and does nothing else: no prices, no
//! traces, no metrics, no checks.
//!
//! Each is a process of its own. It prints its URL as its only line when it can be asked, and ends
//! when its standard input does, so that it cannot outlive its parent.

mod http;
mod rpc;
mod sql;

use std::io::Write as _;

use anyhow::Context as _;
use axum::Router;
use axum::serve::ListenerExt as _;
use clap::Subcommand;
use futures::{FutureExt as _, future::LocalBoxFuture};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

/// What to serve.
#[derive(Clone, Debug, Subcommand)]
pub enum Floor {
    /// HTTP: a quote from nothing. JSON in, one H3 cell, JSON out
    Http,
    /// HTTP: a quote after two concurrent gRPC calls
    RpcFanout {
        /// Where an `rpc-callee` listens
        #[arg(long, value_name = "URL")]
        supply_url: String,
        /// Where another one listens
        #[arg(long, value_name = "URL")]
        demand_url: String,
    },
    /// gRPC: the levels of the zones asked for, from nothing
    RpcCallee,
    /// HTTP: a quote after one indexed read of seven rows
    SqlRow {
        /// PostgreSQL to read from; none to start a private one
        #[arg(long, env = "FLOOR_DATABASE_URL", hide_env_values = true)]
        database_url: Option<String>,
    },
}

/// Serves until standard input ends.
///
/// # Errors
/// When no port is free, or what the floor depends on is missing.
pub fn run(floor: Floor) -> LocalBoxFuture<'static, anyhow::Result<()>> {
    // Boxed, so that it is compiled here: docs/decisions/release-profile.md.
    run_here(floor).boxed_local()
}

async fn run_here(floor: Floor) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .context("no port to listen on")?;
    match floor {
        Floor::Http => serve(listener, http::router()).await,
        Floor::RpcFanout {
            supply_url,
            demand_url,
        } => serve(listener, rpc::caller(supply_url, demand_url)?).await,
        Floor::RpcCallee => {
            announce(&listener)?;
            rpc::serve_callee(listener, end_of_input()).await
        }
        Floor::SqlRow { database_url } => {
            let database = sql::Database::open(database_url).await?;
            serve(listener, sql::router(database.pool())).await?;
            database.close().await
        }
    }
}

async fn serve(listener: TcpListener, router: Router) -> anyhow::Result<()> {
    announce(&listener)?;
    // Without it the two halves of an answer may wait for each other: Nagle's algorithm against
    // delayed ACKs.
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    // Not gracefully: kept connections would hold it up, and nobody waits for an answer any more.
    tokio::select! {
        served = axum::serve(listener, router).into_future() => Ok(served?),
        () = end_of_input() => Ok(()),
    }
}

fn announce(listener: &TcpListener) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "http://{}", listener.local_addr()?)?;
    Ok(out.flush()?)
}

async fn end_of_input() {
    // Whatever comes is ignored; an error is an end too.
    let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
}
