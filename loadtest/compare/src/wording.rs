//! What a report says in words, the same on the terminal and on the page: its title, and what each column means.

use chrono::{DateTime, FixedOffset};
use marketplace::{Calendar, MarketTime};

use super::report::{Floor, ModeFigures, RateStep, Report};
use super::workload::over;

/// What was compared.
pub(crate) const TITLE: &str = "One market, priced by each dataflow";

/// What was driven to its limit.
pub(crate) const LIMITS_TITLE: &str =
    "Each dataflow at its limit, and a bare server that stands on the same";

/// What a figure looks like that was not measured.
pub(crate) const UNKNOWN: &str = "-";

/// One column of the table.
pub(crate) struct Column {
    /// Its name, in two lines at most.
    pub(crate) name: &'static str,
    /// The unit of its figures; empty for counts.
    pub(crate) unit: &'static str,
    /// What the figure means, for a reader who meets it for the first time.
    pub(crate) meaning: &'static str,
    /// The figure of a mode that stands on a floor, ready to print.
    pub(crate) figure: fn(&ModeFigures, &Floor) -> String,
}

/// The columns after the name of the mode, of the table of the same market at the same moment.
pub(crate) const COLUMNS: [Column; 9] = [
    Column {
        name: "quotes",
        unit: "",
        meaning: "Price quotes that were answered, each of them checked.",
        figure: |mode, _| mode.quotes.to_string(),
    },
    Column {
        name: "errors",
        unit: "",
        meaning: "Quotes asked for that brought no answer in time, or a wrong one.",
        figure: |mode, _| mode.errors.to_string(),
    },
    Column {
        name: "degraded",
        unit: "",
        meaning: "Quotes priced without surge because the service had no data younger than 15 market minutes.",
        figure: |mode, _| mode.degraded.to_string(),
    },
    Column {
        name: "latency\np50",
        unit: "ms",
        meaning: "Half of the quotes were answered within this time, counted from the moment at which the request \
                  was meant to leave.",
        figure: |mode, _| milliseconds(mode.latency_us.p50),
    },
    Column {
        name: "latency\np99",
        unit: "ms",
        meaning: "99 of 100 quotes were answered within this time.",
        figure: |mode, _| milliseconds(mode.latency_us.p99),
    },
    Column {
        name: "data age\np50",
        unit: "s",
        meaning: "How old the supply and demand figures behind the price were, in real seconds: half were younger.",
        figure: |mode, _| seconds(mode.data_age_ms.p50),
    },
    Column {
        name: "data age\np99",
        unit: "s",
        meaning: "99 of 100 quotes were made from data younger than this.",
        figure: |mode, _| seconds(mode.data_age_ms.p99),
    },
    Column {
        name: "multiplier\nerror",
        unit: "mean |Δ|",
        meaning: "Mean distance between the surge multiplier quoted and the one that was right at that instant, \
                  according to the books of the city, which made every driver and every rider itself.",
        figure: |mode, _| decimals(mode.multiplier_error.mean_abs, 3),
    },
    Column {
        name: "off by\n≥ 0.2",
        unit: "% of all",
        meaning: "Share of the quotes whose multiplier was wrong by two steps of 0.1 or more.",
        figure: |mode, _| {
            let percent = mode.multiplier_error.share_off_by_0_2;
            decimals(percent.map(|share| share * 100.0), 1)
        },
    },
];

/// The columns after the name of the mode, of the table of capacities.
pub(crate) const LIMITS: [Column; 7] = [
    Column {
        name: "capacity",
        unit: "quotes/s",
        meaning: "The highest rate at which every quote was answered, 99 of 100 within 50 ms, and no queue grew: the median of \
                  the rounds. \
                  The load generator and the city use the same processors.",
        figure: |mode, _| decimals(mode.capacity_per_s, 0),
    },
    Column {
        name: "of all\nrounds",
        unit: "quotes/s",
        meaning: "The lowest and the highest of the rounds: how far to trust the median.",
        figure: |mode, _| range(mode.capacity_range_per_s),
    },
    Column {
        name: "processor\ntime",
        unit: "us a quote",
        meaning: "Processor time of the three services for one quote, without what the city costs them, PostgreSQL and NATS \
                  not counted.",
        figure: |mode, _| decimals(mode.cpu_us_per_quote, 0),
    },
    Column {
        name: "floor",
        unit: "quotes/s",
        meaning: "The capacity of a bare server that stands on the same: HTTP alone for events, HTTP and two gRPC calls for \
                  request, HTTP and one SQL read for database.",
        figure: |_, floor| decimals(floor.capacity_per_s, 0),
    },
    Column {
        name: "of all\nrounds",
        unit: "quotes/s",
        meaning: "The lowest and the highest of the floor's rounds.",
        figure: |_, floor| range(floor.capacity_range_per_s),
    },
    Column {
        name: "floor's\nlatency p50",
        unit: "ms",
        meaning: "Half of the answers of the bare server came within this time, at the rate at which a mode was asked above.",
        figure: |_, floor| milliseconds(floor.latency_us.p50),
    },
    Column {
        name: "share\nof floor",
        unit: "%",
        meaning: "Capacity of the mode over capacity of its floor: what is left for prices, traces, metrics and checks.",
        figure: |mode, _| decimals(mode.share_of_floor.map(|share| share * 100.0), 0),
    },
];

/// What was done, in a few short lines.
pub(crate) fn done(report: &Report) -> Vec<String> {
    let workload = &report.workload;
    let mut lines = Vec::new();
    let city = &report.city;
    let measured = city
        .measured_from
        .as_deref()
        .zip(city.measured_until.as_deref());
    if let Some(span) = measured.and_then(|(from, until)| market_span(from, until)) {
        lines.push(format!("Market: {span}.{}", pace(workload.speed)));
    }
    lines.push(format!(
        "Load: {} quotes/s{}{} for {} s, each trip asked of {}; {} drivers, scenario {}, seed {}.",
        workload.rate_per_s,
        workload.arrivals.in_words(),
        over(workload.transport),
        workload.seconds,
        modes_in_words(report.modes.len()),
        report.city.fleet,
        workload.scenario,
        workload.seed
    ));
    lines.extend(rate_steps(&workload.rate_steps));
    lines
}

/// How the rate changed, if it did.
fn rate_steps(steps: &[RateStep]) -> Option<String> {
    let step = |step: &RateStep| format!("{} quotes/s for {:.0} s", step.rate_per_s, step.seconds);
    let steps: Vec<String> = steps.iter().map(step).collect();
    (!steps.is_empty()).then(|| format!("The rate in steps: {}.", steps.join(", then ")))
}

/// What the load generator takes for itself, where that was measured.
pub(crate) fn generator(report: &Report) -> Option<String> {
    let generator = &report.generator;
    let (ceiling, micros) = generator.ceiling_per_s.zip(generator.cpu_us_per_quote)?;
    Some(format!(
        "The load generator takes {micros:.0} us of processor time a quote, from the same processors, and keeps up with \
         a bare server to {ceiling:.0} quotes/s."
    ))
}

fn modes_in_words(count: usize) -> &'static str {
    match count {
        1 => "one mode only",
        2 => "both modes in turn",
        _ => "all three modes in turn",
    }
}

fn pace(speed: f64) -> String {
    if speed == 1.0 {
        " It runs in real time.".to_owned()
    } else {
        format!(" Its clock runs {speed} times as fast as ours.")
    }
}

/// Weekday, date and hours of a stretch of market time between two instants, RFC 3339, in New York time.
pub(crate) fn market_span(from: &str, until: &str) -> Option<String> {
    let (from, until) = (new_york(from)?, new_york(until)?);
    Some(format!(
        "{} to {} in New York",
        from.format("%A %Y-%m-%d, %H:%M"),
        until.format("%H:%M")
    ))
}

/// Hours and minutes in New York.
pub(crate) fn time_of_day(at: MarketTime) -> String {
    in_new_york(at).map_or_else(|| at.to_string(), |local| local.format("%H:%M").to_string())
}

/// An instant, RFC 3339, as the clocks of New York show it.
pub(crate) fn new_york(instant: &str) -> Option<DateTime<FixedOffset>> {
    in_new_york(instant.parse().ok()?)
}

fn in_new_york(instant: MarketTime) -> Option<DateTime<FixedOffset>> {
    let offset = FixedOffset::east_opt(Calendar::NEW_YORK_SUMMER.utc_offset_seconds)?;
    Some(DateTime::from_timestamp_millis(instant.millis())?.with_timezone(&offset))
}

fn milliseconds(micros: Option<u64>) -> String {
    decimals(micros.map(|micros| micros as f64 / 1000.0), 1)
}

/// Three decimals where a tenth of a second would say nothing.
fn seconds(milliseconds: Option<f64>) -> String {
    let places = match milliseconds {
        Some(milliseconds) if milliseconds < 1_000.0 => 3,
        _ => 1,
    };
    decimals(
        milliseconds.map(|milliseconds| milliseconds / 1000.0),
        places,
    )
}

fn range(range: Option<[u32; 2]>) -> String {
    range.map_or_else(|| UNKNOWN.to_owned(), |[low, high]| format!("{low}-{high}"))
}

fn decimals(value: Option<f64>, places: usize) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| format!("{value:.places$}"))
}
