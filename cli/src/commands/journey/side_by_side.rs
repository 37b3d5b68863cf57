//! One trip, quoted in each mode: a table with a column per mode.

use anstyle::Style;
use comfy_table::{Cell, CellAlignment, Color, Table};
use price_optimization::explain::{FeedPath, Journey, Stage};

use super::wording::{self, cost, dollars, market, millis};
use crate::terminal::{heading, table};

const DIM: Style = Style::new().dimmed();

/// The stops of all modes, in the order of the data.
const STAGES: [Stage; 7] = [
    Stage::Asked,
    Stage::Observed,
    Stage::Published,
    Stage::Received,
    Stage::Written,
    Stage::Read,
    Stage::Priced,
];

/// The journeys side by side, as lines of text.
pub(super) fn picture(journeys: &[Journey]) -> String {
    let mut lines = vec![title(&journeys[0]), compared(journeys).to_string()];
    lines.extend(journeys.iter().map(sentence));
    lines.push(String::new());
    lines.push("Each hop by hop, with its levels, its formula and its traces:".to_owned());
    lines.extend(journeys.iter().map(command));
    lines.extend(journeys.iter().flat_map(notes));
    lines.join("\n")
}

fn title(journey: &Journey) -> String {
    let [from, to] = [journey.pickup, journey.dropoff]
        .map(|place| format!("{:.4},{:.4}", place.lat(), place.lon()));
    let when = market(journey.priced_at_market_time, "%A %Y-%m-%d %H:%M");
    let trip = format!("One trip from {from} to {to}, quoted by each dataflow");
    let pace = format!(
        "{when} in New York; the market runs {} times as fast as life, ages are in real ms",
        journey.market_speed
    );
    format!("{}\n{DIM}{pace}{DIM:#}", heading(trip))
}

fn compared(journeys: &[Journey]) -> Table {
    let mut compared = table([]);
    let header = journeys.iter().map(|journey| journey.dataflow.to_string());
    compared.set_header([String::new()].into_iter().chain(header));
    row(&mut compared, "fare", journeys, |journey| {
        dollars(journey.fare.fare_cents)
    });
    row(&mut compared, "multiplier", journeys, |journey| {
        let degraded = if journey.degraded { ", degraded" } else { "" };
        format!("{:.1}{degraded}", journey.fare.surge_multiplier)
    });
    row(&mut compared, "supply, demand", journeys, levels);
    row(&mut compared, "answered in, ms", journeys, |journey| {
        millis(journey.took_ms)
    });
    row(&mut compared, "data age, ms", journeys, |journey| {
        journey
            .data_age_ms
            .map_or_else(|| "no data".to_owned(), millis)
    });
    row(
        &mut compared,
        "the same in market time",
        journeys,
        |journey| {
            let market_ms = journey.data_age_ms.map(|age| age * journey.market_speed);
            market_ms.map_or_else(String::new, |market_ms| {
                wording::duration(market_ms / 1_000.0)
            })
        },
    );
    row(&mut compared, "older feed", journeys, |journey| {
        older(journey)
            .map_or("", |feed| wording::feed(feed.feed))
            .to_owned()
    });
    row(&mut compared, "ms before the price", journeys, |_| {
        String::new()
    });
    for stage in STAGES {
        stage_row(&mut compared, stage, journeys);
    }
    for column in compared.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    compared
}

fn row(table: &mut Table, name: &str, journeys: &[Journey], of: impl Fn(&Journey) -> String) {
    let values = journeys.iter().map(of);
    table.add_row([name.to_owned()].into_iter().chain(values));
}

/// How long before the price the older feed passed the stop; a colour marks the longest hop.
fn stage_row(table: &mut Table, stage: Stage, journeys: &[Journey]) {
    let before = |journey: &Journey| {
        let stop = older(journey)?
            .stops
            .iter()
            .find(|stop| stop.stage == stage)?;
        let before = (journey.priced_at - stop.at).as_seconds_f64() * 1_000.0;
        let costliest = journey.costliest_hop.as_ref();
        let is_costliest = costliest.is_some_and(|hop| hop.to == stage);
        let cell = Cell::new(millis(before));
        Some(if is_costliest {
            cell.fg(Color::Yellow)
        } else {
            cell
        })
    };
    let cells = journeys
        .iter()
        .map(|journey| before(journey).unwrap_or_else(|| Cell::new("")));
    let name = Cell::new(format!("  {}", wording::stage(stage)));
    table.add_row([name].into_iter().chain(cells));
}

fn levels(journey: &Journey) -> String {
    let zone = journey.zones.first();
    let value =
        |level: Option<f64>| level.map_or_else(|| "?".to_owned(), |value| format!("{value:.2}"));
    let supply = zone
        .and_then(|zone| zone.supply.as_ref())
        .map(|level| level.value);
    let demand = zone
        .and_then(|zone| zone.demand.as_ref())
        .map(|level| level.value);
    format!("{}, {}", value(supply), value(demand))
}

fn older(journey: &Journey) -> Option<&FeedPath> {
    journey.feeds.iter().find(|feed| feed.is_older)
}

fn sentence(journey: &Journey) -> String {
    let mode = journey.dataflow;
    let Some((hop, age)) = journey.costliest_hop.as_ref().zip(journey.data_age_ms) else {
        return format!("{mode} has no data, so there is no way to show.");
    };
    let feed = wording::feed(hop.feed);
    format!(
        "{mode}: {feed} is {} ms old; {}.",
        millis(age),
        cost(journey, hop)
    )
}

fn command(journey: &Journey) -> String {
    let trace = journey.trace.as_ref().and_then(|trace| trace.url.as_ref());
    let trace = trace.map_or_else(String::new, |url| format!("   {DIM}{url}{DIM:#}"));
    format!("  ./surge journey {}{trace}", journey.quote_id)
}

fn notes(journey: &Journey) -> Vec<String> {
    let notes = journey.notes.iter();
    notes
        .map(|note| format!("Note on {}: {note}.", journey.dataflow))
        .collect()
}
