//! The city from above: every zone coloured by its multiplier, of each mode beside the right one at
//! that moment.

use std::collections::BTreeMap;

use marketplace::{Multiplier, Position, Zone};
use maud::{Markup, html};

use super::choice;
use crate::report::{CompareReport, Moment};
use crate::wording;

pub(super) fn section(report: &CompareReport) -> Markup {
    let moments: Vec<&Moment> = report
        .series
        .map
        .iter()
        .filter(|moment| !moment.oracle.is_empty())
        .collect();
    let hottest = moments.iter().flat_map(|moment| multipliers(moment)).max();
    let hottest = hottest
        .unwrap_or(Multiplier::ONE)
        .max(Multiplier::rounded(LEAST_SCALE));
    let maps = moments
        .iter()
        .map(|moment| (time(moment), maps(moment, hottest)));
    let maps: Vec<(String, Markup)> = maps.collect();
    html! {
        @if !maps.is_empty() {
            h2 { "The prices of the city" }
            p {
                "The multiplier of every zone, as each dataflow had it at one moment, beside the \
                 right one. An outlined zone is wrong by 0.2 or more. Rest the pointer on a zone \
                 to read its price."
            }
            (scale(hottest))
            (choice::one_of("Moment, New York time:", "moment", &maps))
        }
    }
}

/// The end of the scale unless a zone is more expensive, so that a calm evening looks calm.
const LEAST_SCALE: f64 = 2.0;

fn multipliers(moment: &Moment) -> impl Iterator<Item = Multiplier> {
    let quoted = moment.quoted.values().flat_map(BTreeMap::values);
    quoted.chain(moment.oracle.values()).copied()
}

fn time(moment: &Moment) -> String {
    let at = moment.market_time.parse();
    at.map_or_else(|_| moment.market_time.clone(), wording::time_of_day)
}

fn scale(hottest: Multiplier) -> Markup {
    html! {
        p.scale aria-hidden="true" { "1.0 " span {} " " (hottest) }
    }
}

fn maps(moment: &Moment, hottest: Multiplier) -> Markup {
    let projection = Projection::of(moment.oracle.keys());
    let view_box = projection.view_box();
    let quoted = moment
        .quoted
        .iter()
        .map(|(mode, zones)| (mode.as_str(), zones));
    let all = std::iter::once(("right (oracle)", &moment.oracle)).chain(quoted);
    html! {
        div.maps {
            @for (name, zones) in all {
                figure {
                    svg viewBox=(view_box) role="img"
                        aria-label=(alternative(name, zones, moment)) {
                        @for (zone, multiplier) in zones {
                            (hexagon(*zone, *multiplier, name, moment, hottest, &projection))
                        }
                    }
                    figcaption { (name) }
                }
            }
        }
    }
}

fn hexagon(
    zone: Zone,
    multiplier: Multiplier,
    name: &str,
    moment: &Moment,
    hottest: Multiplier,
    projection: &Projection,
) -> Markup {
    let right = moment.oracle.get(&zone);
    let off = right.is_some_and(|right| is_off(multiplier, *right));
    let points: Vec<String> = zone
        .corners()
        .into_iter()
        .map(|corner| projection.place(corner))
        .collect();
    let right = right
        .filter(|right| **right != multiplier)
        .map(|right| format!(", right is {right}"));
    html! {
        polygon.zone.off[off] points=(points.join(" ")) style=(heat(multiplier, hottest)) {
            title { (name) ": " (multiplier) (right.unwrap_or_default()) ", zone " (zone) }
        }
    }
}

fn is_off(quoted: Multiplier, right: Multiplier) -> bool {
    quoted.tenths().abs_diff(right.tenths()) >= 2
}

/// The position on the scale, from which the style sheet mixes the colour.
fn heat(multiplier: Multiplier, hottest: Multiplier) -> String {
    let above = |multiplier: Multiplier| multiplier.as_f64() - 1.0;
    format!("--heat:{:.0}%", 100.0 * above(multiplier) / above(hottest))
}

fn alternative(name: &str, zones: &BTreeMap<Zone, Multiplier>, moment: &Moment) -> String {
    let surging = zones
        .values()
        .filter(|multiplier| **multiplier > Multiplier::ONE)
        .count();
    let off = zones.iter().filter(|(zone, multiplier)| {
        moment
            .oracle
            .get(zone)
            .is_some_and(|right| is_off(**multiplier, *right))
    });
    let highest = zones.values().max().copied().unwrap_or(Multiplier::ONE);
    format!(
        "Map at {}, {name}: {surging} of {} zones above 1.0, the most expensive at {highest}, {} \
         wrong by 0.2 or more.",
        time(moment),
        zones.len(),
        off.count()
    )
}

/// From degrees to the plane: equirectangular, true at the middle of the city, which is exact
/// enough for a city.
struct Projection {
    west: f64,
    north: f64,
    width: f64,
    height: f64,
    /// A degree of longitude in degrees of latitude.
    narrowing: f64,
}

impl Projection {
    /// With room for all these zones.
    fn of<'a>(zones: impl Iterator<Item = &'a Zone>) -> Self {
        let corners: Vec<Position> = zones.flat_map(|zone| zone.corners()).collect();
        let span = |of: fn(Position) -> f64| {
            let values = corners.iter().map(|corner| of(*corner));
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
        };
        let (south, north) = span(Position::lat);
        let (west, east) = span(Position::lon);
        let narrowing = ((south + north) / 2.0).to_radians().cos();
        Self {
            west,
            north,
            width: (east - west) * narrowing,
            height: north - south,
            narrowing,
        }
    }

    fn view_box(&self) -> String {
        let (width, height) = (self.width * UNITS, self.height * UNITS);
        format!("-4 -4 {:.0} {:.0}", width + 8.0, height + 8.0)
    }

    fn place(&self, position: Position) -> String {
        let x = (position.lon() - self.west) * self.narrowing * UNITS;
        let y = (self.north - position.lat()) * UNITS;
        format!("{x:.1},{y:.1}")
    }
}

/// Units of a drawing to a degree of latitude: a zone comes to some twenty.
const UNITS: f64 = 1_000.0;

/// The colours of the zones: from near the paper to far from it, so that a reader can distinguish
/// them without colour.
pub(crate) const STYLE: &str = "
:root { --calm: #e9e4ee; --hot: #5b0f73; }
@media (prefers-color-scheme: dark) { :root { --calm: #2a2630; --hot: #f7c948; } }
.zone { fill: color-mix(in oklab, var(--hot) var(--heat), var(--calm)); stroke: var(--paper); }
.zone.off { stroke: var(--text); stroke-width: 2.5; }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; }
.scale span { display: inline-block; width: 9rem; height: .8em;
  background: linear-gradient(in oklab to right, var(--calm), var(--hot)); }
";
