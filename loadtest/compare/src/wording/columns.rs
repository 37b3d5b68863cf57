//! The columns of the tables: name, unit, what the figure means, and how it is written.

use super::{UNKNOWN, decimals, milliseconds, percent};
use crate::report::{Estimate, FloorFigures, MarketFigure, MarketRow, ModeFigures};

/// A column after the first, for rows of one type beside a reference of another: the floor of a
/// mode, or the row of fresh data.
pub(crate) struct TableColumn<Row, Reference> {
    /// Its name, broken into lines so that the whole table fits 80 columns.
    pub(crate) name: &'static str,
    /// The unit of its figures; empty for counts.
    pub(crate) unit: &'static str,
    /// What the figure means, for a reader who meets it for the first time.
    pub(crate) meaning: &'static str,
    /// The figure, ready to print.
    pub(crate) cell: fn(&Row, &Reference) -> String,
    /// Whether the figure means nothing where the oracle cannot be trusted.
    pub(crate) needs_oracle: bool,
}

impl<Row, Reference> TableColumn<Row, Reference> {
    /// The name in one line.
    pub(crate) fn title(&self) -> String {
        self.name.replace("-\n", "").replace('\n', " ")
    }
}

pub(crate) const FIGURES: [TableColumn<ModeFigures, FloorFigures>; 9] = [
    TableColumn {
        name: "quotes",
        unit: "",
        meaning: "Price quotes that were answered. Each answer was checked.",
        cell: |mode, _| mode.quotes.to_string(),
        needs_oracle: false,
    },
    TableColumn {
        name: "errors",
        unit: "",
        meaning: "Quotes requested that brought no answer in time, or a wrong one.",
        cell: |mode, _| mode.errors.to_string(),
        needs_oracle: false,
    },
    TableColumn {
        name: "degraded",
        unit: "",
        meaning: "Quotes priced without surge because the service had no data younger than 15 \
                  market minutes.",
        cell: |mode, _| mode.degraded.to_string(),
        needs_oracle: false,
    },
    TableColumn {
        name: "latency\np50",
        unit: "ms",
        meaning: "Half of the quotes were answered within this time, counted from the moment at \
                  which the request was meant to leave.",
        cell: |mode, _| milliseconds(mode.latency_us.p50),
        needs_oracle: false,
    },
    TableColumn {
        name: "latency\np99",
        unit: "ms",
        meaning: "99 of 100 quotes were answered within this time.",
        cell: |mode, _| milliseconds(mode.latency_us.p99),
        needs_oracle: false,
    },
    TableColumn {
        name: "data\nage\np50",
        unit: "s",
        meaning: "Age of the supply and demand figures behind the price, in real seconds: half \
                  were younger.",
        cell: |mode, _| seconds(mode.data_age_ms.p50),
        needs_oracle: false,
    },
    TableColumn {
        name: "data\nage\np99",
        unit: "s",
        meaning: "99 of 100 quotes were made from data younger than this.",
        cell: |mode, _| seconds(mode.data_age_ms.p99),
        needs_oracle: false,
    },
    TableColumn {
        name: "multiplier\nerror",
        unit: "mean |Δ|",
        meaning: "Mean distance between the surge multiplier quoted and the right one at that \
                  instant. The city knows the right one, because it made every driver and every \
                  rider itself.",
        cell: |mode, _| decimals(mode.multiplier_error.mean_abs, 3),
        needs_oracle: true,
    },
    TableColumn {
        name: "wrong\nby ≥\n0.2",
        unit: "%",
        meaning: "Share of the quotes whose multiplier was wrong by two steps of 0.1 or more.",
        cell: |mode, _| percent(mode.multiplier_error.share_off_by_0_2, 1),
        needs_oracle: true,
    },
];

pub(crate) const CAPACITIES: [TableColumn<ModeFigures, FloorFigures>; 7] = [
    TableColumn {
        name: "capacity",
        unit: "quotes/s",
        meaning: "The highest rate at which every quote was answered, 99 of 100 within 50 ms, and \
                  no queue grew: the median of the rounds. The load generator and the city use \
                  the same processors.",
        cell: |mode, _| decimals(mode.capacity_per_s, 0),
        needs_oracle: false,
    },
    TableColumn {
        name: "of all\nrounds",
        unit: "quotes/s",
        meaning: "The lowest and the highest of the rounds: how far to trust the median.",
        cell: |mode, _| range(mode.capacity_range_per_s),
        needs_oracle: false,
    },
    TableColumn {
        name: "CPU\ntime",
        unit: "us/quote",
        meaning: "Processor time of the three services for one quote, without what the city costs \
                  them. PostgreSQL and NATS are not counted.",
        cell: |mode, _| decimals(mode.cpu_us_per_quote, 0),
        needs_oracle: false,
    },
    TableColumn {
        name: "floor",
        unit: "quotes/s",
        meaning: "The capacity of a minimal server built on the same libraries: HTTP alone for \
                  events, HTTP and two gRPC calls for request, HTTP and one SQL read for database.",
        cell: |_, floor| decimals(floor.capacity_per_s, 0),
        needs_oracle: false,
    },
    TableColumn {
        name: "of all\nrounds",
        unit: "quotes/s",
        meaning: "The lowest and the highest of the floor's rounds.",
        cell: |_, floor| range(floor.capacity_range_per_s),
        needs_oracle: false,
    },
    TableColumn {
        name: "floor's\np50",
        unit: "ms",
        meaning: "Half of the answers of the minimal server came within this time, at the rate of \
                  one mode in the table above.",
        cell: |_, floor| milliseconds(floor.latency_us.p50),
        needs_oracle: false,
    },
    TableColumn {
        name: "share\nof floor",
        unit: "%",
        meaning: "Capacity of the mode over capacity of its floor: the part that prices, traces, \
                  metrics and checks leave.",
        cell: |mode, _| percent(mode.share_of_floor, 0),
        needs_oracle: false,
    },
];

/// The simulated evenings: the error as it is, the other figures of all rows but the first as
/// differences to fresh data.
pub(crate) const MARKET: [TableColumn<MarketRow, MarketRow>; 7] = [
    TableColumn {
        name: "error",
        unit: "|Δ|",
        meaning: "Mean distance between the multiplier quoted and the right one at that instant.",
        cell: |row, _| decimals(mean(row, MarketFigure::MultiplierErrorMeanAbs), 3),
        needs_oracle: false,
    },
    TableColumn {
        name: "wrong\nby ≥\n0.2",
        unit: "%",
        meaning: "Share of the quotes whose multiplier was wrong by two steps of 0.1 or more.",
        cell: |row, _| percent(mean(row, MarketFigure::ShareOffBy02), 1),
        needs_oracle: false,
    },
    TableColumn {
        name: "un-\nserved",
        unit: "riders",
        meaning: "Riders who accepted the price and found no car soon enough.",
        cell: |row, _| difference(row, MarketFigure::Unserved, 1.0, 0),
        needs_oracle: false,
    },
    TableColumn {
        name: "wait",
        unit: "s",
        meaning: "Mean wait of the riders who were driven, market seconds.",
        cell: |row, _| difference(row, MarketFigure::MeanWaitMin, 60.0, 0),
        needs_oracle: false,
    },
    TableColumn {
        name: "value",
        unit: "k$, %",
        meaning: "What the riders who were driven would have paid at most, up to five times the \
                  normal fare each.",
        cell: |row, fresh| in_percent(row, fresh, MarketFigure::ValueUsd),
        needs_oracle: false,
    },
    TableColumn {
        name: "rides",
        unit: "driven",
        meaning: "Rides driven. More is not better by itself: without surge more rides are driven \
                  and more riders find no car.",
        cell: |row, _| difference(row, MarketFigure::Completed, 1.0, 0),
        needs_oracle: false,
    },
    TableColumn {
        name: "revenue",
        unit: "k$, %",
        meaning: "What the riders who were driven paid.",
        cell: |row, fresh| in_percent(row, fresh, MarketFigure::RevenueUsd),
        needs_oracle: false,
    },
];

/// Three decimals where a tenth of a second would say nothing.
fn seconds(milliseconds: Option<f64>) -> String {
    let places = if milliseconds.is_some_and(|it| it < 1_000.0) {
        3
    } else {
        1
    };
    decimals(
        milliseconds.map(|milliseconds| milliseconds / 1000.0),
        places,
    )
}

fn range(range: Option<[u32; 2]>) -> String {
    range.map_or_else(|| UNKNOWN.to_owned(), |[low, high]| format!("{low}-{high}"))
}

fn mean(row: &MarketRow, figure: MarketFigure) -> Option<f64> {
    row.figures.get(&figure).map(|estimate| estimate.mean)
}

/// The figure itself in the row of fresh data, and the difference to fresh data in all others.
fn difference(row: &MarketRow, figure: MarketFigure, factor: f64, places: usize) -> String {
    match row.against_fresh.get(&figure) {
        Some(difference) => signed(difference, factor, places),
        None => decimals(mean(row, figure).map(|mean| mean * factor), places),
    }
}

/// Thousands in the row of fresh data, and percent of that in all others.
fn in_percent(row: &MarketRow, fresh: &MarketRow, figure: MarketFigure) -> String {
    let whole = mean(fresh, figure).filter(|whole| *whole > 0.0);
    match (row.against_fresh.get(&figure), whole) {
        (Some(difference), Some(whole)) => signed(difference, 100.0 / whole, 1),
        (Some(_), None) => UNKNOWN.to_owned(),
        (None, _) => decimals(mean(row, figure).map(|mean| mean / 1_000.0), 1),
    }
}

fn signed(difference: &Estimate, factor: f64, places: usize) -> String {
    // Adding zero turns the minus zero of a rounding into a plain one.
    let mean = crate::statistics::rounded(difference.mean * factor, places as i32) + 0.0;
    match difference.standard_error {
        Some(error) => format!("{mean:+.places$}±{:.places$}", error * factor),
        None => format!("{mean:+.places$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::market::tests::made_up_cost;
    use super::*;

    fn cells(row: usize) -> Vec<String> {
        let cost = made_up_cost();
        let (row, fresh) = (&cost.rows[row], &cost.rows[0]);
        MARKET
            .iter()
            .map(|column| (column.cell)(row, fresh))
            .collect()
    }

    #[test]
    fn fresh_row_has_figures_others_differences() {
        let fresh = ["0.000", "0.0", "780", "222", "186.0", "3690", "59.0"];
        assert_eq!(cells(0), fresh);
        let five_minutes = [
            "0.084",
            "20.0",
            "+20±4",
            "+2±0",
            "-0.4±0.1",
            "-29±5",
            "+0.0±0.1",
        ];
        assert_eq!(cells(3), five_minutes);
    }
}
