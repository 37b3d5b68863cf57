//! One journey: a timeline for each feed, the steps of the formula, and the traces.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use comfy_table::{
    Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, presets::NOTHING,
};
use price_optimization::explain::{
    FeedPath, Formula, Journey, LevelDetail, Stage, Stop, TraceLink, ZoneDetail,
};

use super::wording::{self, cost, dollars, market, millis};
use crate::terminal::heading;

const DIM: Style = Style::new().dimmed();
const OLDER: Style = AnsiColor::Yellow.on_default().bold();

/// Characters from the first stop to the price; fewer where lines would wrap.
const WIDTH: usize = 28;
const NARROW_WIDTH: usize = 12;
const WIDE_TERMINAL: u16 = 120;

/// All of a journey, as lines of text.
pub(super) fn picture(journey: &Journey) -> String {
    let mut lines = vec![title(journey), when(journey)];
    let scale = TimeScale::of(journey);
    lines.extend(
        journey
            .feeds
            .iter()
            .map(|feed| timeline(journey, feed, scale)),
    );
    lines.push(zones(journey));
    lines.push(price(journey));
    lines.extend(traces(journey));
    lines.extend(journey.notes.iter().map(|note| format!("Note: {note}.")));
    lines.join("\n")
}

fn title(journey: &Journey) -> String {
    let age = match journey.data_age_ms {
        Some(age) => format!("from data {} ms old", millis(age)),
        None => "from no data".to_owned(),
    };
    let fare = &journey.fare;
    let degraded = if journey.degraded { ", degraded" } else { "" };
    let title = format!(
        "{} · {} at {:.1} {age}{degraded}",
        journey.dataflow,
        dollars(fare.fare_cents),
        fare.surge_multiplier
    );
    format!("{}  {DIM}{}{DIM:#}", heading(title), journey.quote_id)
}

fn when(journey: &Journey) -> String {
    let priced = format!(
        "Priced at {} UTC, {} ms after it was asked.",
        journey.priced_at.format("%H:%M:%S%.3f"),
        millis(journey.took_ms)
    );
    let market_time = market(journey.priced_at_market_time, "%A %Y-%m-%d %H:%M:%S");
    let speed = journey.market_speed;
    match (speed == 1.0, journey.data_age_ms) {
        (true, _) => format!("{priced} The market's clock is the real one.\n"),
        (false, None) => format!("{priced} The market had {market_time} in New York.\n"),
        (false, Some(age)) => format!(
            "{priced} The market, {speed} times as fast as life, had {market_time} in New York;\n\
             there the data was {} old.\n",
            wording::duration(age * speed / 1_000.0)
        ),
    }
}

/// The scale of both timelines, which end at the same time: the price.
#[derive(Clone, Copy)]
struct TimeScale {
    /// From the earliest stop of either feed to the price.
    longest_ms: f64,
    width: usize,
}

impl TimeScale {
    fn of(journey: &Journey) -> Self {
        let stops = journey.feeds.iter().flat_map(|feed| &feed.stops);
        let before = stops.map(|stop| before_price(journey, stop));
        let terminal = bare_table().width();
        let is_narrow = terminal.is_some_and(|width| width < WIDE_TERMINAL);
        Self {
            longest_ms: before.fold(0.0, f64::max),
            width: if is_narrow { NARROW_WIDTH } else { WIDTH },
        }
    }

    /// The column of a time that was this long before the price.
    fn column_of(self, before_price_ms: f64) -> usize {
        let share_before = match self.longest_ms {
            0.0 => 0.0,
            longest_ms => (before_price_ms / longest_ms).clamp(0.0, 1.0),
        };
        ((1.0 - share_before) * (self.width - 1) as f64).round() as usize
    }
}

fn before_price(journey: &Journey, stop: &Stop) -> f64 {
    let before = journey.priced_at - stop.at;
    before.as_seconds_f64() * 1_000.0
}

fn timeline(journey: &Journey, feed: &FeedPath, scale: TimeScale) -> String {
    let name = wording::feed(feed.feed);
    let Some(age) = feed.age_ms else {
        return format!("{}\n", heading(format!("{name}: not known")));
    };
    let mut text = heading(format!("{name}, {} ms old", millis(age)));
    let costliest = journey.costliest_hop.as_ref();
    let costliest = costliest.filter(|hop| hop.feed == feed.feed);
    if feed.is_older {
        let _ = write!(text, "  {OLDER}◀ sets the data age{OLDER:#}");
    }
    let mut table = bare_table();
    table.set_header(["ms old", "hop ms", "", "stop", "how"].map(dim));
    let mut from = None;
    for stop in &feed.stops {
        let is_costliest = costliest.is_some_and(|hop| hop.to == stop.stage);
        let here = scale.column_of(before_price(journey, stop));
        table.add_row(stop_row(stop, bar(from, here), is_costliest));
        from = Some(here);
    }
    align(&mut table, &[0, 1]);
    keep_whole(&mut table, &[0, 1, 2, 3]);
    let _ = write!(text, "\n{}\n", trimmed(&table));
    if let Some(hop) = costliest {
        let _ = writeln!(text, "  {}.", cost(journey, hop));
    }
    text
}

fn stop_row(stop: &Stop, bar: String, is_costliest: bool) -> [Cell; 5] {
    let optional = |value: Option<f64>| value.map_or_else(String::new, millis);
    let old = optional(stop.age_ms);
    let hop = Cell::new(optional(stop.hop_ms));
    let (hop, bar) = match is_costliest {
        true => (hop.fg(Color::Yellow), Cell::new(bar).fg(Color::Yellow)),
        false => (hop, Cell::new(bar).fg(Color::Cyan)),
    };
    let who = Cell::new(format!("{} by {}", wording::stage(stop.stage), stop.by));
    let how = match &stop.message {
        Some(message) => format!("{}, {}", stop.how, message.subject),
        None => stop.how.clone(),
    };
    [Cell::new(old), hop, bar, who, Cell::new(how)]
}

/// The bar of a stop: its dot, behind the hop that led to it.
fn bar(from: Option<usize>, here: usize) -> String {
    let from = from.unwrap_or(here).min(here);
    format!("{}{}●", " ".repeat(from), "━".repeat(here - from))
}

fn zones(journey: &Journey) -> String {
    let mut table = bare_table();
    let mut stops = journey.feeds.iter().flat_map(|feed| &feed.stops);
    let has_messages = stops.any(|stop| stop.message.is_some());
    let messages_header = if has_messages { "last message" } else { "" };
    let header = [
        "zone",
        "supply",
        "as of",
        "demand",
        "as of",
        messages_header,
    ];
    table.set_header(header.map(dim));
    for (index, zone) in journey.zones.iter().enumerate() {
        let name = match index {
            0 => format!("{}  the pickup's", zone.zone),
            _ => zone.zone.clone(),
        };
        table.add_row([
            Cell::new(name),
            Cell::new(value(zone.supply.as_ref())),
            Cell::new(as_of(zone.supply.as_ref())),
            Cell::new(value(zone.demand.as_ref())),
            Cell::new(as_of(zone.demand.as_ref())),
            Cell::new(messages(zone)),
        ]);
    }
    align(&mut table, &[1, 3]);
    format!(
        "{}\n{}\n",
        heading("levels of the k-ring, as of market time"),
        trimmed(&table)
    )
}

fn value(level: Option<&LevelDetail>) -> String {
    level.map_or_else(
        || "unknown".to_owned(),
        |level| format!("{:.2}", level.value),
    )
}

fn as_of(level: Option<&LevelDetail>) -> String {
    level.map_or_else(String::new, |level| market(level.as_of, "%H:%M:%S"))
}

fn messages(zone: &ZoneDetail) -> String {
    let levels = [&zone.supply, &zone.demand].into_iter().flatten();
    let messages = levels.filter_map(|level| level.message.as_ref());
    let named = messages.map(|message| format!("{} {}", message.stream, message.sequence));
    named.collect::<Vec<_>>().join(", ")
}

fn price(journey: &Journey) -> String {
    let fare = &journey.fare;
    let formula = match &journey.formula {
        Some(formula) => worked(formula),
        None => "  a level is missing, so there is no surge\n".to_owned(),
    };
    format!(
        "{}\n{formula}  fare  {} for {:.1} miles and {:.0} min, times {:.1}: {}\n",
        heading("price"),
        dollars(fare.unsurged_cents),
        fare.miles,
        fare.minutes,
        fare.surge_multiplier,
        dollars(fare.fare_cents)
    )
}

fn worked(formula: &Formula) -> String {
    let Formula {
        smoothed_supply,
        smoothed_demand,
        neighbour_weight,
        driver_reserve,
        pseudo_drivers,
        load_ratio,
        exponent,
        cap,
        target,
    } = formula;
    let share = neighbour_weight * 100.0;
    let power = if *exponent == 1.0 {
        String::new()
    } else {
        format!("^{exponent}")
    };
    format!(
        "  S~    {smoothed_supply:.2} drivers available, D~ {smoothed_demand:.2} requests \
         expected; the neighbours count for {share:.0} %\n  \
         R     {driver_reserve:.2} drivers in reserve, so that pickups stay short\n  \
         rho   (D~ + R + {pseudo_drivers}) / (S~ + {pseudo_drivers}) = {load_ratio:.3}\n  \
         m     rho{power}, from 1 to {cap:.1}: {target:.3}\n"
    )
}

fn traces(journey: &Journey) -> Option<String> {
    let own = journey
        .trace
        .iter()
        .map(|trace| ("this quote".to_owned(), trace));
    let stops = journey.feeds.iter().flat_map(|feed| {
        let stops = feed.stops.iter();
        stops.filter_map(|stop| Some((who(stop), stop.trace.as_ref()?)))
    });
    let mut links: Vec<(String, &TraceLink)> = own.chain(stops).collect();
    let mut seen = Vec::new();
    links.retain(|(_, trace)| {
        let is_new = !seen.contains(&&trace.trace_id);
        seen.push(&trace.trace_id);
        is_new
    });
    if links.is_empty() {
        return None;
    }
    let mut table = bare_table();
    for (who, trace) in links {
        let place = trace.url.as_ref().unwrap_or(&trace.trace_id);
        table.add_row([who, place.clone()]);
    }
    Some(format!("{}\n{}\n", heading("traces"), trimmed(&table)))
}

fn who(stop: &Stop) -> String {
    match (stop.run, stop.stage, &stop.message) {
        (Some(run), ..) => format!("batch run {run}"),
        (None, Stage::Read, _) => "the batch run".to_owned(),
        (None, _, Some(message)) => {
            format!("publish of {} {}", message.stream, message.sequence)
        }
        (None, _, None) => format!("{}'s write", stop.by),
    }
}

fn bare_table() -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// The lines of a table without trailing blanks.
fn trimmed(table: &Table) -> String {
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

fn dim(text: &str) -> Cell {
    Cell::new(text).add_attribute(comfy_table::Attribute::Dim)
}

fn align(table: &mut Table, columns: &[usize]) {
    for index in columns {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// On a narrow terminal texts may wrap, but not these columns.
fn keep_whole(table: &mut Table, columns: &[usize]) {
    for index in columns {
        if let Some(column) = table.column_mut(*index) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_spans_from_previous_stop() {
        assert_eq!(bar(None, 2), "  ●");
        assert_eq!(bar(Some(1), 4), " ━━━●");
        assert_eq!(bar(Some(3), 3), "   ●");
        assert_eq!(bar(Some(5), 3), "   ●", "clocks may differ a little");
    }

    #[test]
    fn price_is_at_right_end() {
        let scale = |longest_ms| TimeScale {
            longest_ms,
            width: WIDTH,
        };
        assert_eq!(scale(100.0).column_of(0.0), WIDTH - 1);
        assert_eq!(scale(100.0).column_of(100.0), 0);
        assert_eq!(scale(0.0).column_of(0.0), WIDTH - 1);
    }
}
