//! Which stack a command means that names none: the one at `SURGE_PORT_BASE` if that is set, else
//! the one of the state folder. The standard ports alone mean nothing: they may be another
//! checkout's, or another person's.

use std::{net::TcpStream, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use city::TargetArgs;

use super::{
    Ports, RunningStack,
    ports::{address, url},
};

/// A port on loopback is open or refuses at once.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

const REMEDY: &str = "start one with ./surge up";

impl RunningStack {
    /// The stack of this folder, with its processes.
    ///
    /// # Errors
    /// When none runs, or another than `SURGE_PORT_BASE` asks for.
    pub(crate) fn meant(state_dir: &Path) -> anyhow::Result<Self> {
        let here = Self::here(state_dir)?;
        here.with_context(|| match Ports::from_environment() {
            Ok(Ports::Base(base)) => {
                format!(
                    "no stack of this folder runs on port {}: {REMEDY}",
                    base + 3
                )
            }
            _ => format!("no stack runs here: {REMEDY}"),
        })
    }

    /// The stack of this folder, unless `SURGE_PORT_BASE` asks for another.
    pub(crate) fn here(state_dir: &Path) -> anyhow::Result<Option<Self>> {
        let ports = Ports::from_environment()?;
        let found = Self::find(state_dir)?;
        Ok(found.filter(|stack| match ports {
            Ports::Base(base) => stack.ports.http[2][0] == base + 3,
            _ => true,
        }))
    }
}

/// Base URLs of every price-optimization of the stack that is meant.
///
/// # Errors
/// When none runs.
pub(crate) fn price_urls(state_dir: &Path) -> anyhow::Result<Vec<String>> {
    match RunningStack::here(state_dir)? {
        Some(stack) => Ok(stack.price_urls()),
        None => Ok(vec![price_at_base()?]),
    }
}

fn price_at_base() -> anyhow::Result<String> {
    let Ports::Base(base) = Ports::from_environment()? else {
        bail!("no stack runs here: {REMEDY}, or give --target");
    };
    let price = base + 3;
    if TcpStream::connect_timeout(&address(price), ANSWER_LIMIT).is_err() {
        bail!("no stack runs on port {price}: {REMEDY}, or give --target");
    }
    Ok(url(price))
}

/// Names the services of the stack that is meant, where the command line does not.
///
/// # Errors
/// As [`price_urls`].
pub(crate) fn complete(target: &mut TargetArgs, state_dir: &Path) -> anyhow::Result<()> {
    if target.target.is_some() {
        return Ok(());
    }
    let stack = RunningStack::here(state_dir)?;
    let Some(stack) = stack else {
        target.target = Some(price_at_base()?);
        return Ok(());
    };
    target.target = stack.price_urls().into_iter().next();
    let [drivers, rides, _] = &stack.ports.http;
    let name = |given: &mut Option<String>, port: u16| {
        given.get_or_insert_with(|| url(port));
    };
    name(&mut target.driver_url, drivers[0]);
    name(&mut target.ride_url, rides[0]);
    name(&mut target.grpc_url, stack.ports.grpc[2][0]);
    name(&mut target.city_url, stack.ports.city);
    Ok(())
}
