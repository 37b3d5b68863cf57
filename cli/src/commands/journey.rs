//! `surge journey`: how supply and demand came to a quote, hop by hop. Without a quote it asks for
//! one in each mode, of the same trip, and shows the three ways side by side.

mod side_by_side;
mod timeline;
mod words;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use city::{
    Client,
    client::{CallError, HttpAnswer},
};
use http::{Method, Request, StatusCode, header::CONTENT_TYPE};
use marketplace::Position;
use platform::sampling::TRACE_HEADER;
use price_optimization::explain::Journey;
use serde::{Deserialize, Serialize};
use surge_proto::DataflowMode;
use uuid::Uuid;

use crate::{
    cli::JourneyArgs,
    terminal::{complain, say},
};

/// A quote ends by its own deadline, well below this.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// What a quote is asked with.
#[derive(Clone, Copy, Serialize)]
struct Trip {
    pickup: Position,
    dropoff: Position,
}

/// The part of a quote that leads to its journey.
#[derive(Deserialize)]
struct Quote {
    quote_id: Uuid,
}

/// The part of an `application/problem+json` that a person reads.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

pub(crate) async fn run(args: JourneyArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(CALL_LIMIT);
    match (args.quote_id, args.mode) {
        (Some(quote_id), _) => show_one(&find(&client, &args.target, quote_id).await?, args.json),
        (None, Some(mode)) => show_one(&take(&client, &args, mode).await?, args.json),
        (None, None) => return show_all(&client, &args).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

fn show_one(journey: &Journey, json: bool) -> anyhow::Result<()> {
    match json {
        true => say(serde_json::to_string_pretty(journey)?),
        false => say(timeline::picture(journey)),
    }
    Ok(())
}

/// A mode that cannot quote now does not keep the others from being shown.
async fn show_all(client: &Client, args: &JourneyArgs) -> anyhow::Result<ExitCode> {
    let mut journeys = Vec::new();
    let mut refusals = Vec::new();
    for mode in DataflowMode::ALL {
        match take(client, args, mode).await {
            Ok(journey) => journeys.push(journey),
            Err(error) => refusals.push(format!("{mode}: {error:#}")),
        }
    }
    match args.json {
        true => say(serde_json::to_string_pretty(&journeys)?),
        false if !journeys.is_empty() => say(side_by_side::picture(&journeys)),
        false => {}
    }
    refusals.iter().for_each(complain);
    Ok(match refusals.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Asks for a quote of the trip, and the replica that made it for its journey.
async fn take(client: &Client, args: &JourneyArgs, mode: DataflowMode) -> anyhow::Result<Journey> {
    let target = args.target.first().context("name a --target")?;
    let trip = Trip {
        pickup: args.pickup,
        dropoff: args.dropoff,
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}/v1/quotes", base(target)))
        .header(CONTENT_TYPE, "application/json")
        .header("surge-dataflow", mode.as_str())
        .header(TRACE_HEADER, "on")
        .body(serde_json::to_vec(&trip)?.into())
        .with_context(|| format!("--target {target} is not a URL"))?;
    let quote: Quote = read(target, client.call(request).await)?;
    find(client, &args.target, quote.quote_id).await
}

/// Asks the replicas for the journey, one after the other, until one knows it.
async fn find(client: &Client, targets: &[String], quote_id: Uuid) -> anyhow::Result<Journey> {
    let mut refusals = Vec::new();
    for target in targets {
        let url = format!("{}/v1/quotes/{quote_id}/journey", base(target));
        match read(target, client.get(&url).await) {
            Ok(journey) => return Ok(journey),
            Err(error) => refusals.push(format!("{error:#}")),
        }
    }
    bail!("{}", refusals.join("\n       "))
}

fn base(target: &str) -> &str {
    target.trim_end_matches('/')
}

fn read<T: for<'a> Deserialize<'a>>(
    target: &str,
    answer: Result<HttpAnswer, CallError>,
) -> anyhow::Result<T> {
    let answer = answer.with_context(|| {
        format!("no price-optimization answers at {target}: start one with ./surge up, or name it with --target")
    })?;
    if answer.status == StatusCode::OK {
        return answer.json().with_context(|| {
            format!(
                "{target} is no price-optimization of this version: {}",
                answer.excerpt()
            )
        });
    }
    let problem = answer.json::<Problem>();
    let reason = problem.map_or_else(|_| answer.excerpt(), |problem| problem.detail);
    bail!("price-optimization at {target}: {reason}")
}
