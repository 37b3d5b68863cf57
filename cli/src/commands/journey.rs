//! `surge journey`: how supply and demand reached a quote, hop by hop. Without a quote it quotes
//! the same trip in each mode and shows the three journeys side by side.

mod side_by_side;
mod timeline;
mod wording;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use city::Client;
use http::{Method, Request, header::CONTENT_TYPE};
use marketplace::Position;
use platform::sampling::TRACE_HEADER;
use price_optimization::explain::Journey;
use serde::{Deserialize, Serialize};
use surge_proto::DataflowMode;
use uuid::Uuid;

use super::answer::{DependencyStatus, ReadyzAnswer, read};
use crate::{
    cli::JourneyArgs,
    stack::meant,
    terminal::{complain, say},
};

/// A quote ends by its own deadline, well below this.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// The body of a request for a quote.
#[derive(Clone, Copy, Serialize)]
struct TripToQuote {
    pickup: Position,
    dropoff: Position,
}

/// The part of a quote that leads to its journey.
#[derive(Deserialize)]
struct QuoteAnswer {
    quote_id: Uuid,
}

pub(crate) async fn run(mut args: JourneyArgs, state_dir: &Path) -> anyhow::Result<ExitCode> {
    if args.target.is_empty() {
        args.target = meant::price_urls(state_dir)?;
    }
    let client = Client::new(CALL_LIMIT);
    let exit_code = match (args.quote_id, args.mode) {
        (Some(quote_id), _) => show_one(&find(&client, &args.target, quote_id).await?, args.json)?,
        (None, Some(mode)) => show_one(&take(&client, &args, mode).await?, args.json)?,
        (None, None) => show_all(&client, &args).await?,
    };
    if !args.json {
        let target = args.target.first().context("name a --target")?;
        dependencies_down(&client, target)
            .await
            .iter()
            .for_each(complain);
    }
    Ok(exit_code)
}

fn show_one(journey: &Journey, json: bool) -> anyhow::Result<ExitCode> {
    match json {
        true => say(serde_json::to_string_pretty(journey)?)?,
        false => say(timeline::picture(journey))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is down now of the things on which any dataflow depends: the likely reason of a long hop.
async fn dependencies_down(client: &Client, target: &str) -> Vec<String> {
    let answer = client.get(&format!("{}/readyz", base(target))).await;
    let readiness = answer
        .ok()
        .and_then(|answer| answer.json::<ReadyzAnswer>().ok());
    let dependencies = readiness.map_or_else(Default::default, |readiness| readiness.dependencies);
    let down = dependencies
        .into_iter()
        .filter(|(_, dependency)| dependency.status != "up");
    let sentence = |(name, dependency): (String, DependencyStatus)| {
        let reason = dependency.reason.unwrap_or_default();
        format!("{name} is {} now: {reason}", dependency.status)
    };
    down.map(sentence).collect()
}

/// Shows the modes that can quote now, and the errors of the others.
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
        true => say(serde_json::to_string_pretty(&journeys)?)?,
        false if !journeys.is_empty() => say(side_by_side::picture(&journeys))?,
        false => {}
    }
    refusals.iter().for_each(complain);
    Ok(match refusals.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Requests a quote of the trip, and its journey.
async fn take(client: &Client, args: &JourneyArgs, mode: DataflowMode) -> anyhow::Result<Journey> {
    let target = args.target.first().context("name a --target")?;
    let trip = TripToQuote {
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
    let quote: QuoteAnswer = read(target, client.call(request).await)?;
    find(client, &args.target, quote.quote_id).await
}

/// Asks one replica after the other for the journey: each knows only its own quotes.
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
