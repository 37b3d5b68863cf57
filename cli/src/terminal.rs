//! How the output of the command looks: errors, times and tables.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};
pub(crate) use city::output::{note, say};
use comfy_table::{
    Cell, CellAlignment, Color, ContentArrangement, Table, presets::UTF8_BORDERS_ONLY,
};
use marketplace::{MarketTime, new_york};

const HEADING: Style = Style::new().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// An error.
pub(crate) fn complain(text: impl Display) {
    note(format_args!("{BAD}surge:{BAD:#} {text}"));
}

/// A time as the city's clocks show it, such as `Friday 2014-04-04 17:00`.
pub(crate) fn new_york(time: MarketTime) -> String {
    new_york::show(time, "%A %Y-%m-%d %H:%M")
}

pub(crate) fn heading(text: impl Display) -> String {
    format!("{HEADING}{text}{HEADING:#}")
}

/// A green or red cell of a table.
pub(crate) fn verdict(is_good: bool, text: impl ToString) -> Cell {
    Cell::new(text).fg(if is_good { Color::Green } else { Color::Red })
}

/// An empty table with this header, in the style of all tables of the command.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    table
}

/// Aligns numbers to the right: all columns but the first.
pub(crate) fn align_numbers(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::FRIDAY_EVENING;

    #[test]
    fn time_is_shown_in_new_york() {
        assert_eq!(new_york(FRIDAY_EVENING), "Friday 2014-04-04 17:00");
    }
}
