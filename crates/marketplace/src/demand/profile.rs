//! The demand profile: how many requests a zone usually gets at each time of the week.
//!
//! # How this works
//!
//! The week is cut into *slots* of 15 minutes. The obvious profile is the mean count of each slot,
//! but a busy zone gets two requests in a slot, so that a mean of a few weeks is mostly noise. Two
//! remedies: neighbouring slots are averaged with triangular weights, and each estimate is drawn
//! ("shrunk") towards a coarser one that has more data:
//!
//! ```text
//! zone and slot  ->  the zone's share x city and slot  ->  city and time of day  ->  city's mean
//!                4 weeks of pseudo-data             1/4 week                  1/4 week
//! ```
//!
//! With months of history the slots decide, with three days the time of day decides, and without
//! history every zone gets one request an hour. No value is zero, since a zero could never grow.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::new_york;
use crate::time::{MarketTime, WEEK_MILLIS, millis_of};
use crate::zone::{ServiceArea, Zone};

/// How a profile is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProfileSettings {
    /// Length of a slot of the week; divides a day.
    pub slot: Duration,
    /// Only this many weeks at the end of the history are used, so that the profile follows the
    /// season.
    pub weeks: u32,
    /// A slot learns from its neighbours up to this far away, with a weight that falls linearly to
    /// zero.
    pub kernel: Duration,
    /// Weeks of pseudo-data with which a zone is drawn towards its share of the city.
    pub city_weeks: f64,
    /// Weeks of pseudo-data with which a slot of the city is drawn towards its time of day, and
    /// that towards the mean. Little: it is there for slots that were never seen.
    pub fallback_weeks: f64,
}

/// Of 8, 12 and 26 weeks the longest scored best on the pickups of July 2014, with everything
/// before as training.
impl Default for ProfileSettings {
    fn default() -> Self {
        Self {
            slot: Duration::from_secs(15 * 60),
            weeks: 26,
            kernel: Duration::from_secs(90 * 60),
            city_weeks: 4.0,
            fallback_weeks: 0.25,
        }
    }
}

/// Expected requests per zone and slot of the week, never zero.
///
/// In JSON (schema `surge.demand_profile/1`) and in memory it holds whole ten-thousandths, so that
/// a profile from a file and the trained one forecast the same, to the last bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ProfileFile", into = "ProfileFile")]
pub struct DemandProfile {
    slot: Duration,
    /// Sorted; one row of `ten_thousandths` each.
    zones: Vec<Zone>,
    /// Expected requests per slot of the week, in ten-thousandths.
    ten_thousandths: Vec<Vec<u32>>,
}

/// No zone of the profile is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("DEMAND_PROFILE covers no zone of SERVICE_AREA: name the profile of this area, or none")]
pub struct ProfileElsewhere;

impl DemandProfile {
    /// Learns the profile of `zones` from the pickups inside `span`; pickups elsewhere or at other
    /// times are ignored.
    ///
    /// # Panics
    /// If the slot does not divide a day.
    pub fn train(
        pickups: &[(MarketTime, Zone)],
        zones: &[Zone],
        span: Range<MarketTime>,
        settings: &ProfileSettings,
    ) -> Self {
        let zones = sorted(zones);
        let history = History::count(pickups, &zones, span, settings);
        let city = history.city_week(settings);
        let rows = (0..zones.len()).map(|zone| in_steps(&history.zone_week(zone, &city, settings)));
        let ten_thousandths = rows.collect();
        Self {
            slot: settings.slot,
            zones,
            ten_thousandths,
        }
    }

    /// The profile of zones without history: one request an hour, always.
    pub fn flat(zones: &[Zone]) -> Self {
        let start = MarketTime::from_millis(0);
        Self::train(&[], zones, start..start, &ProfileSettings::default())
    }

    /// Requests to expect in `[at, at + window)`. A zone outside the profile gets the smallest
    /// value that the profile can hold.
    pub fn expected(&self, zone: Zone, at: MarketTime, window: Duration) -> f64 {
        self.expected_in(zone, &self.overlaps(at, window))
    }

    /// [`expected`](Self::expected) in the window with these overlaps.
    pub(super) fn expected_in(&self, zone: Zone, overlaps: &[(usize, f64)]) -> f64 {
        let row = self
            .zones
            .binary_search(&zone)
            .ok()
            .map(|index| &self.ten_thousandths[index]);
        let steps_in = |slot: usize| row.map_or(1, |row| row[slot]);
        let requests =
            |(slot, share): &(usize, f64)| share * f64::from(steps_in(*slot)) / STEPS_PER_REQUEST;
        overlaps.iter().map(requests).sum()
    }

    /// The profile, if it covers some of the area. One of another city would forecast no demand
    /// anywhere.
    ///
    /// # Errors
    /// [`ProfileElsewhere`] if it covers none of the area.
    pub fn within(self, area: &ServiceArea) -> Result<Self, ProfileElsewhere> {
        match self.zones.iter().any(|zone| area.contains(*zone)) {
            true => Ok(self),
            false => Err(ProfileElsewhere),
        }
    }

    /// The zones it covers, sorted.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// The slots of the week that `[at, at + window)` touches, each with the share of the slot
    /// inside the window. Each slot asks the clocks anew, since they may have been changed. That is
    /// the costly part, and the same for all zones.
    pub(super) fn overlaps(&self, at: MarketTime, window: Duration) -> Vec<(usize, f64)> {
        let slot_millis = millis_of(self.slot);
        let (mut from, until) = (at.millis(), (at + window).millis());
        std::iter::from_fn(move || {
            let into_week = new_york::millis_into_week(MarketTime::from_millis(from));
            let inside = (slot_millis - into_week % slot_millis).min(until - from);
            from = from.saturating_add(inside);
            let slot = (into_week / slot_millis) as usize;
            (inside > 0).then_some((slot, inside as f64 / slot_millis as f64))
        })
        .collect()
    }
}

/// The counted pickups, per zone and slot of the week.
struct History {
    /// Pickups per zone and slot.
    counts: Vec<Vec<f64>>,
    /// How many times each slot of the week passed.
    passes: Vec<f64>,
    kernel: Kernel,
}

impl History {
    fn count(
        pickups: &[(MarketTime, Zone)],
        zones: &[Zone],
        span: Range<MarketTime>,
        settings: &ProfileSettings,
    ) -> Self {
        let slots = slots_per_week(settings.slot);
        let span = last_weeks(span, settings);
        let mut counts = vec![vec![0.0; slots]; zones.len()];
        for (at, zone) in pickups.iter().filter(|(at, _)| span.contains(at)) {
            if let Ok(index) = zones.binary_search(zone) {
                counts[index][new_york::slot_of_week(*at, settings.slot)] += 1.0;
            }
        }
        Self {
            counts,
            passes: passes(&span, settings),
            kernel: Kernel::new(settings),
        }
    }

    /// Requests of the whole city per slot of the week.
    fn city_week(&self, settings: &ProfileSettings) -> Vec<f64> {
        let seen = self
            .kernel
            .smooth(&sum_of_rows(&self.counts, self.passes.len()));
        let passed = self.kernel.smooth(&self.passes);
        let days = fold_to_days(&seen).into_iter().zip(fold_to_days(&passed));
        let fallback = settings.fallback_weeks * self.kernel.total();
        let mean = self.city_mean(settings);
        let day: Vec<f64> = days
            .map(|(seen, passed)| (seen + fallback * mean) / (passed + fallback))
            .collect();
        let slots = seen.iter().zip(&passed).enumerate();
        slots
            .map(|(slot, (seen, passed))| {
                (seen + fallback * day[slot % day.len()]) / (passed + fallback)
            })
            .collect()
    }

    /// Mean requests of the whole city per slot, with one slot of the flat rate so that it is never
    /// zero.
    fn city_mean(&self, settings: &ProfileSettings) -> f64 {
        let flat = FLAT_REQUESTS_PER_HOUR * settings.slot.as_secs_f64() / 3600.0
            * self.counts.len() as f64;
        let seen: f64 = self.counts.iter().flatten().sum();
        let passed: f64 = self.passes.iter().sum();
        (seen + flat) / (passed + 1.0)
    }

    /// Requests of one zone per slot of the week: its own, drawn towards its share of the city.
    fn zone_week(&self, zone: usize, city: &[f64], settings: &ProfileSettings) -> Vec<f64> {
        let share = self.share_of(zone);
        let pseudo = settings.city_weeks * self.kernel.total();
        let seen = self.kernel.smooth(&self.counts[zone]);
        let passed = self.kernel.smooth(&self.passes);
        let slots = seen.iter().zip(&passed).zip(city);
        slots
            .map(|((seen, passed), city)| (seen + pseudo * share * city) / (passed + pseudo))
            .collect()
    }

    /// The zone's share of the city; half a pickup each keeps a zone that was never seen above
    /// zero.
    fn share_of(&self, zone: usize) -> f64 {
        const UNSEEN: f64 = 0.5;
        let own: f64 = self.counts[zone].iter().sum();
        let all: f64 = self.counts.iter().flatten().sum();
        (own + UNSEEN) / (all + UNSEEN * self.counts.len() as f64)
    }
}

/// Triangular weights around a slot, symmetric, falling to zero just beyond the kernel's width.
struct Kernel {
    /// Weight of the slot itself, of its neighbours, and so on.
    weights: Vec<f64>,
}

impl Kernel {
    fn new(settings: &ProfileSettings) -> Self {
        let reach = (millis_of(settings.kernel) / millis_of(settings.slot)) as usize;
        let reach = reach.min(slots_per_week(settings.slot) / 2);
        let width = (reach + 1) as f64;
        Self {
            weights: (0..=reach)
                .map(|distance| 1.0 - distance as f64 / width)
                .collect(),
        }
    }

    fn total(&self) -> f64 {
        self.weights[0] + 2.0 * self.weights[1..].iter().sum::<f64>()
    }

    /// Weighted sums over the slots around each slot; Sunday night runs into Monday morning.
    fn smooth(&self, week: &[f64]) -> Vec<f64> {
        let slots = week.len();
        let around = |slot: usize| {
            let sides = self.weights.iter().enumerate().skip(1);
            let beside: f64 = sides
                .map(|(distance, weight)| {
                    weight
                        * (week[(slot + distance) % slots]
                            + week[(slot + slots - distance) % slots])
                })
                .sum();
            self.weights[0] * week[slot] + beside
        };
        (0..slots).map(around).collect()
    }
}

/// The last weeks of the span that the profile learns from.
fn last_weeks(span: Range<MarketTime>, settings: &ProfileSettings) -> Range<MarketTime> {
    let limit = Duration::from_millis(WEEK_MILLIS as u64) * settings.weeks;
    span.start.max(span.end - limit)..span.end
}

/// How many times each slot of the week lies in the span as a whole.
fn passes(span: &Range<MarketTime>, settings: &ProfileSettings) -> Vec<f64> {
    let mut passes = vec![0.0; slots_per_week(settings.slot)];
    let first =
        (span.start + (settings.slot - Duration::from_millis(1))).window_index(settings.slot);
    for index in first..span.end.window_index(settings.slot) {
        let start = MarketTime::of_window(index, settings.slot);
        passes[new_york::slot_of_week(start, settings.slot)] += 1.0;
    }
    passes
}

/// Seven days added up into one.
fn fold_to_days(week: &[f64]) -> Vec<f64> {
    let per_day = week.len() / 7;
    (0..per_day)
        .map(|slot| week.iter().skip(slot).step_by(per_day).sum())
        .collect()
}

fn sum_of_rows(rows: &[Vec<f64>], columns: usize) -> Vec<f64> {
    (0..columns)
        .map(|column| rows.iter().map(|row| row[column]).sum())
        .collect()
}

fn slots_per_week(slot: Duration) -> usize {
    let slot_millis = millis_of(slot);
    assert!(
        slot_millis > 0 && WEEK_MILLIS / 7 % slot_millis == 0,
        "a slot of {slot:?} does not divide a day"
    );
    (WEEK_MILLIS / slot_millis) as usize
}

fn sorted(zones: &[Zone]) -> Vec<Zone> {
    let mut zones = zones.to_vec();
    zones.sort_unstable();
    zones.dedup();
    zones
}

fn in_steps(requests: &[f64]) -> Vec<u32> {
    requests
        .iter()
        .map(|requests| (requests * STEPS_PER_REQUEST).round().max(1.0) as u32)
        .collect()
}

/// Resolution of a profile: far finer than any difference that matters in a forecast.
const STEPS_PER_REQUEST: f64 = 10_000.0;

/// The expectation of a zone without history.
const FLAT_REQUESTS_PER_HOUR: f64 = 1.0;

const SCHEMA: &str = "surge.demand_profile/1";

/// A profile as it stands in its file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileFile {
    schema: String,
    calendar: Clocks,
    slot_seconds: u64,
    zones: Vec<Zone>,
    ten_thousandths: Vec<Vec<u32>>,
}

/// The clocks that the slots follow: those of New York. Files that were made before say so by the
/// offset of its summer time, in which their pickups were.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Clocks {
    TimeZone(String),
    UtcOffsetSeconds(i32),
}

const NEW_YORK: &str = "America/New_York";

impl Clocks {
    fn are_new_york(&self) -> bool {
        match self {
            Self::TimeZone(name) => name == NEW_YORK,
            Self::UtcOffsetSeconds(offset) => *offset == -4 * 3600,
        }
    }
}

impl From<DemandProfile> for ProfileFile {
    fn from(profile: DemandProfile) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            calendar: Clocks::TimeZone(NEW_YORK.to_owned()),
            slot_seconds: profile.slot.as_secs(),
            zones: profile.zones,
            ten_thousandths: profile.ten_thousandths,
        }
    }
}

impl TryFrom<ProfileFile> for DemandProfile {
    type Error = ProfileError;

    fn try_from(file: ProfileFile) -> Result<Self, ProfileError> {
        if file.schema != SCHEMA {
            return Err(ProfileError::Schema(file.schema));
        }
        if !file.calendar.are_new_york() {
            return Err(ProfileError::Clocks);
        }
        let slots = slots_of_file(file.slot_seconds)?;
        let is_complete = file.ten_thousandths.len() == file.zones.len()
            && file
                .ten_thousandths
                .iter()
                .all(|row| row.len() == slots && !row.contains(&0))
            && file.zones.is_sorted_by(|a, b| a < b);
        if !is_complete {
            return Err(ProfileError::Rows { slots });
        }
        Ok(Self {
            slot: Duration::from_secs(file.slot_seconds),
            zones: file.zones,
            ten_thousandths: file.ten_thousandths,
        })
    }
}

fn slots_of_file(slot_seconds: u64) -> Result<usize, ProfileError> {
    let day_seconds = 24 * 3600;
    if slot_seconds == 0 || day_seconds % slot_seconds != 0 {
        return Err(ProfileError::Slot(slot_seconds));
    }
    Ok(slots_per_week(Duration::from_secs(slot_seconds)))
}

/// A file that is not a usable demand profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Another kind or version of file.
    #[error("the demand profile has schema `{0}`, expected `{SCHEMA}`")]
    Schema(String),
    /// The slots follow other clocks.
    #[error("the calendar of the demand profile must be the time zone {NEW_YORK}")]
    Clocks,
    /// The slot length makes no calendar.
    #[error("slot_seconds {0} of the demand profile does not divide a day")]
    Slot(u64),
    /// Rows are missing, of the wrong length, out of order or hold a zero.
    #[error("the demand profile must hold sorted zones, each with {slots} numbers above zero")]
    Rows {
        /// Slots per week.
        slots: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::{Bounds, ServiceArea};

    const QUARTER: Duration = Duration::from_secs(15 * 60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn monday() -> MarketTime {
        "2014-04-07T00:00:00-04:00".parse().unwrap()
    }

    fn days(days: u64) -> Duration {
        HOUR * 24 * days as u32
    }

    fn zones() -> Vec<Zone> {
        ServiceArea::new(Bounds::new(40.70, -74.00, 40.76, -73.94).unwrap()).zones()[..3].to_vec()
    }

    /// Ten pickups in the first zone every evening at 20:07.
    fn busy_evenings(count: u64) -> Vec<(MarketTime, Zone)> {
        let evening = |day| monday() + days(day) + HOUR * 20 + Duration::from_secs(7 * 60);
        (0..count)
            .flat_map(|day| vec![(evening(day), zones()[0]); 10])
            .collect()
    }

    fn trained(days_seen: u64) -> DemandProfile {
        let span = monday()..monday() + days(days_seen);
        DemandProfile::train(
            &busy_evenings(days_seen),
            &zones(),
            span,
            &ProfileSettings::default(),
        )
    }

    #[test]
    fn flat_profile_expects_one_request_hourly() {
        let profile = DemandProfile::flat(&zones());
        for zone in zones() {
            assert!((profile.expected(zone, monday(), HOUR) - 1.0).abs() < 1e-9);
            assert!(
                (profile.expected(zone, monday() + QUARTER, HOUR / 12) - 1.0 / 12.0).abs() < 1e-9
            );
        }
    }

    #[test]
    fn expectations_add_up_over_split_windows() {
        let profile = trained(28);
        let start = monday() + HOUR * 19 + Duration::from_secs(123);
        let whole = profile.expected(zones()[0], start, HOUR);
        let first = profile.expected(zones()[0], start, HOUR / 3);
        let rest = profile.expected(zones()[0], start + HOUR / 3, HOUR * 2 / 3);
        assert!((whole - first - rest).abs() < 1e-9);
    }

    #[test]
    fn profile_repeats_busy_evenings_above_zero() {
        let profile = trained(28);
        let evening = monday() + days(30) + HOUR * 20;
        assert!(profile.expected(zones()[0], evening, HOUR) > 1.0);
        assert!(profile.expected(zones()[0], evening - HOUR * 10, HOUR) < 0.1);
        assert!(profile.expected(zones()[1], evening, HOUR) > 0.0);
    }

    #[test]
    fn time_of_day_stands_in_for_weekdays() {
        let profile = trained(3);
        let saturday_evening = monday() + days(5) + HOUR * 20;
        let saturday_morning = saturday_evening - HOUR * 12;
        let evening = profile.expected(zones()[0], saturday_evening, QUARTER);
        let morning = profile.expected(zones()[0], saturday_morning, QUARTER);
        assert!(
            evening > 10.0 * morning && morning > 0.0,
            "{evening} {morning}"
        );
        assert!(evening < 10.0);
    }

    #[test]
    fn ignores_pickups_outside_span_or_zones() {
        let span = monday()..monday() + days(7);
        let elsewhere: Zone = "872a30660ffffff".parse().unwrap();
        let strays = [
            (monday() - days(1), zones()[0]),
            (monday() + days(7), zones()[0]),
            (monday(), elsewhere),
        ];
        let settings = ProfileSettings::default();
        let with_strays = DemandProfile::train(&strays, &zones(), span.clone(), &settings);
        assert_eq!(
            with_strays,
            DemandProfile::train(&[], &zones(), span, &settings)
        );
    }

    #[test]
    fn profile_survives_its_file() {
        let profile = trained(9);
        let json = serde_json::to_string(&profile).unwrap();
        assert!(json.starts_with(r#"{"schema":"surge.demand_profile/1""#));
        assert_eq!(
            serde_json::from_str::<DemandProfile>(&json).unwrap(),
            profile
        );
        let older = json.replace(
            r#"{"time_zone":"America/New_York"}"#,
            r#"{"utc_offset_seconds":-14400}"#,
        );
        assert_ne!(older, json);
        assert_eq!(
            serde_json::from_str::<DemandProfile>(&older).unwrap(),
            profile
        );
    }

    /// The pickups of four summer weeks, at 20:07: in winter, too, people ride at 20:07.
    #[test]
    fn winter_evening_uses_same_slot() {
        let profile = trained(28);
        let expected = |text: &str| profile.expected(zones()[0], text.parse().unwrap(), QUARTER);
        let summer = expected("2014-05-09T20:00:00-04:00");
        assert_eq!(expected("2014-12-05T20:00:00-05:00"), summer);
        assert!(expected("2014-12-05T20:00:00-04:00") < summer);
    }

    #[test]
    fn changed_clocks_leave_out_or_repeat_slots() {
        let mut profile = DemandProfile::flat(&zones());
        let steps = profile.ten_thousandths.iter_mut();
        steps.for_each(|row| {
            row[6 * 96 + 4..6 * 96 + 12].copy_from_slice(&[1, 1, 1, 1, 9, 9, 9, 9])
        });
        let five_hours = |text: &str| {
            let sunday = crate::new_york::start_of_day(text.parse().unwrap());
            let ten_thousandths = profile.expected(zones()[0], sunday, HOUR * 5) * 10_000.0;
            ten_thousandths.round() as u32
        };
        let quarters = |others: u32, at_one: u32, at_two: u32| others * 2500 + at_one + at_two * 9;
        assert_eq!(five_hours("2014-04-06T12:00:00Z"), quarters(12, 4, 4));
        assert_eq!(five_hours("2014-03-09T12:00:00Z"), quarters(16, 4, 0));
        assert_eq!(five_hours("2014-11-02T12:00:00Z"), quarters(8, 8, 4));
    }

    #[test]
    fn refused_file_says_why() {
        let json = serde_json::to_string(&DemandProfile::flat(&zones())).unwrap();
        let wrong = [
            (
                json.replace("demand_profile/1", "demand_profile/2"),
                "schema",
            ),
            (
                json.replace(r#""slot_seconds":900"#, r#""slot_seconds":0"#),
                "does not divide a day",
            ),
            (
                json.replace(r#""slot_seconds":900"#, r#""slot_seconds":3600"#),
                "168 numbers",
            ),
            (json.replace("[[2500,", "[[0,"), "above zero"),
            (json.replace("New_York", "Chicago"), "America/New_York"),
        ];
        for (json, reason) in wrong {
            let refused = serde_json::from_str::<DemandProfile>(&json)
                .unwrap_err()
                .to_string();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
