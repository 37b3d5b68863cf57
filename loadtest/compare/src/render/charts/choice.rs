//! One of several charts, chosen by the reader: by radio buttons and the style sheet, without a
//! script.

use maud::{Markup, html};

/// Charts at most; [`STYLE`] has a rule for each.
const MOST: usize = 6;

/// The charts, of which the first is shown until another is chosen.
pub(super) fn one_of(question: &str, name: &str, charts: &[(String, Markup)]) -> Markup {
    let charts = &charts[..charts.len().min(MOST)];
    html! {
        fieldset.choice {
            legend { (question) }
            @for (number, (label, _)) in charts.iter().enumerate() {
                label { input type="radio" name=(name) checked[number == 0]; (label) }
            }
            @for (_, chart) in charts { div { (chart) } }
        }
    }
}

/// Shows the chart of the chosen button; on paper, all of them.
pub(crate) const STYLE: &str = "
.choice { border: 0; padding: 0; margin: .5rem 0; min-width: 0; }
.choice > legend { padding: 0; color: var(--quiet); }
.choice > label { display: inline-block; margin-right: 1rem; font-variant-numeric: tabular-nums; }
.choice > label:has(:checked) { font-weight: 600; }
@media screen { .choice > div { display: none; } }
.choice:has(label:nth-of-type(1) :checked) > div:nth-of-type(1),
.choice:has(label:nth-of-type(2) :checked) > div:nth-of-type(2),
.choice:has(label:nth-of-type(3) :checked) > div:nth-of-type(3),
.choice:has(label:nth-of-type(4) :checked) > div:nth-of-type(4),
.choice:has(label:nth-of-type(5) :checked) > div:nth-of-type(5),
.choice:has(label:nth-of-type(6) :checked) > div:nth-of-type(6) { display: block; }
";
