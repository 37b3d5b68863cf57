//! The columns of the table: each figure of fresh data as it is, of all others as a difference with its standard error.

use super::super::wording::UNKNOWN;
use super::{Estimate, Figure, Row};

/// One column of the table.
pub(crate) struct Column {
    /// Its name, in two lines at most.
    pub(crate) name: &'static str,
    /// The unit of its figures.
    pub(crate) unit: &'static str,
    /// What the figure means.
    pub(crate) meaning: &'static str,
    figure: Figure,
    show: Show,
}

/// How a figure is shown.
#[derive(Clone, Copy)]
enum Show {
    /// As it is, times a factor, with so many decimals.
    Plain(f64, usize),
    /// The difference to fresh data, with so many decimals.
    Difference(usize),
    /// The difference to fresh data in percent of it.
    Percent,
}

/// The columns after what the quotes were made from.
pub(crate) const COLUMNS: [Column; 7] = [
    Column {
        name: "error",
        unit: "mean |Δ|",
        meaning: "Mean distance between the multiplier quoted and the one that was right at that instant.",
        figure: Figure::MultiplierErrorMeanAbs,
        show: Show::Plain(1.0, 3),
    },
    Column {
        name: "off by\n≥ 0.2",
        unit: "%",
        meaning: "Share of the quotes whose multiplier was wrong by two steps of 0.1 or more.",
        figure: Figure::ShareOffBy02,
        show: Show::Plain(100.0, 1),
    },
    Column {
        name: "unserved",
        unit: "riders",
        meaning: "Riders who accepted the price and found no car soon enough.",
        figure: Figure::Unserved,
        show: Show::Difference(0),
    },
    Column {
        name: "wait",
        unit: "min",
        meaning: "Mean wait of the riders who were driven.",
        figure: Figure::MeanWaitMin,
        show: Show::Difference(2),
    },
    Column {
        name: "value",
        unit: "k$, %",
        meaning: "What the riders who were driven would have paid at most, up to five times the normal fare each.",
        figure: Figure::ValueUsd,
        show: Show::Percent,
    },
    Column {
        name: "rides",
        unit: "driven",
        meaning: "Rides driven. More is not better by itself: without surge more are driven and more riders are left \
                  standing.",
        figure: Figure::Completed,
        show: Show::Difference(0),
    },
    Column {
        name: "revenue",
        unit: "k$, %",
        meaning: "What the riders who were driven paid.",
        figure: Figure::RevenueUsd,
        show: Show::Percent,
    },
];

impl Column {
    /// The figure of a row, ready to print; `fresh` is the first row.
    pub(crate) fn cell(&self, row: &Row, fresh: &Row) -> String {
        let known = row.figures.get(&self.figure);
        let Some(known) = known else {
            return UNKNOWN.to_owned();
        };
        match (self.show, row.difference(self.figure)) {
            (Show::Plain(factor, places), _) => format!("{:.places$}", known.mean * factor),
            (Show::Difference(places), None) => format!("{:.places$}", known.mean),
            (Show::Percent, None) => format!("{:.1}", known.mean / 1_000.0),
            (Show::Difference(places), Some(difference)) => signed(difference, 1.0, places),
            (Show::Percent, Some(difference)) => {
                let whole = fresh.figures.get(&self.figure).map(|fresh| fresh.mean);
                let whole = whole.filter(|whole| *whole > 0.0);
                whole.map_or_else(
                    || UNKNOWN.to_owned(),
                    |whole| signed(difference, 100.0 / whole, 1),
                )
            }
        }
    }
}

fn signed(difference: &Estimate, factor: f64, places: usize) -> String {
    // Adding zero turns the minus zero of a rounding into a plain one.
    let scale = 10_f64.powi(places as i32);
    let mean = (difference.mean * factor * scale).round() / scale + 0.0;
    match difference.standard_error {
        Some(error) => format!("{mean:+.places$} ±{:.places$}", error * factor),
        None => format!("{mean:+.places$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::wording::tests::cost;
    use super::*;

    fn cells(row: usize) -> Vec<String> {
        let cost = cost();
        let cell = |column: &Column| column.cell(&cost.rows[row], &cost.rows[0]);
        COLUMNS.iter().map(cell).collect()
    }

    #[test]
    fn fresh_data_is_told_as_it_is_and_the_others_as_differences() {
        assert_eq!(
            cells(0),
            ["0.000", "0.0", "780", "3.70", "186.0", "3690", "59.0"]
        );
        assert_eq!(
            cells(3),
            [
                "0.084",
                "20.0",
                "+20 ±4",
                "+0.03 ±0.00",
                "-0.4 ±0.1",
                "-29 ±5",
                "0.0"
            ]
            .map(|cell| if cell == "0.0" { "+0.0 ±0.1" } else { cell })
        );
    }
}
