//! The keys of a scenario file. An unknown key is refused, and the error names the known ones.

use std::ops::Range;
use std::time::Duration;

use chrono::NaiveTime;
use marketplace::{MarketTime, Position, ServiceArea, new_york::at_time_of_day};
use serde::{Deserialize, Deserializer, de};
use strict_serde::Strict;

use city::{Crowd, Pricing};

/// A market, and what is done to it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The name or path on the command line.
    #[serde(skip)]
    name: String,
    /// Its purpose, in a sentence.
    purpose: String,
    #[serde(default)]
    load: Load,
    /// Riders on top of the record.
    #[serde(default, rename = "crowd")]
    crowds: Vec<CrowdPlan>,
    /// A rising rate, after the measurement.
    #[serde(rename = "climb")]
    stress_ramp: Option<StressRamp>,
    #[serde(default)]
    market: MarketPlan,
}

/// The load of the measurement.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Load {
    /// Length of the measurement in real seconds, unless the command line says otherwise.
    #[serde(default, deserialize_with = "some_whole::<_, 1, 86_400>")]
    seconds: Option<u32>,
    /// The rates of the measurement, one after the other; constant without any.
    #[serde(default)]
    steps: Vec<RateChange>,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateChange {
    /// Its length, in proportion to the other steps'.
    #[serde(deserialize_with = "whole::<_, 1, 1_000>")]
    share: u32,
    /// The factor by which the rate of the command line is multiplied.
    #[serde(deserialize_with = "number::<_, 0, 1_000>")]
    rate_factor: f64,
}

/// Riders who leave one place at about the same time.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct CrowdPlan {
    place: Position,
    #[serde(deserialize_with = "whole::<_, 1, 10_000>")]
    riders: u32,
    /// Market minutes within which they appear.
    #[serde(deserialize_with = "whole::<_, 1, 1_440>")]
    within_minutes: u32,
    /// The share of the live measurement after which the first appears, 0 to 1.
    #[serde(deserialize_with = "number::<_, 0, 1>")]
    starts_after_share: f64,
    /// The time of day in New York at which the first appears in simulated evenings.
    #[serde(deserialize_with = "time_of_day")]
    starts_at: Duration,
}

/// A rate that rises until a dataflow fails.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StressRamp {
    /// Each rate over the one before.
    #[serde(deserialize_with = "number::<_, 1, 10>")]
    pub(crate) factor: f64,
    /// Length of a step in real seconds.
    #[serde(deserialize_with = "whole::<_, 1, 600>")]
    pub(crate) step_seconds: u32,
    /// The number of steps at most.
    #[serde(deserialize_with = "whole::<_, 1, 40>")]
    pub(crate) most_steps: u32,
}

/// The simulated evenings.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarketPlan {
    /// Pricings to compare with fresh data besides the dataflows; by default ages from a minute to
    /// an hour.
    #[serde(default)]
    dial: Vec<Dial>,
    /// The riders who appear from this time of day on are scored; by default from 16:30.
    #[serde(default, deserialize_with = "time_of_day_if_any")]
    scored_from: Option<Duration>,
    /// Until this time of day; by default until midnight.
    #[serde(default, deserialize_with = "time_of_day_if_any")]
    scored_until: Option<Duration>,
}

/// A pricing, as a file names it.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Dial {
    DelayedMinutes(#[serde(deserialize_with = "whole::<_, 1, 1_440>")] u32),
    BatchMinutes(#[serde(deserialize_with = "whole::<_, 1, 1_440>")] u32),
    Nightly,
    WithoutSurge,
    Outage(OutagePlan),
}

/// Surge pricing is down for a while.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutagePlan {
    /// The time of day in New York at which it begins.
    #[serde(deserialize_with = "time_of_day")]
    from: Duration,
    /// Market minutes that it lasts.
    #[serde(deserialize_with = "whole::<_, 1, 1_440>")]
    minutes: u32,
}

impl Scenario {
    /// Reads the text of a scenario file.
    ///
    /// # Errors
    /// The file and the line of the mistake, and what would be right.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let Strict(scenario): Strict<Self> =
            toml::from_str(text).map_err(|wrong| format!("{name}: {wrong}"))?;
        scenario
            .check()
            .map_err(|wrong| format!("{name}: {wrong}"))?;
        let name = name.to_owned();
        Ok(Self { name, ..scenario })
    }

    /// The name on the command line and in reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its purpose, in a sentence.
    pub fn purpose(&self) -> &str {
        &self.purpose
    }

    /// The length of the measurement in real seconds, where the scenario has one of its own.
    pub(crate) const fn seconds(&self) -> Option<u32> {
        self.load.seconds
    }

    /// The stress ramp, where the scenario has one.
    pub(crate) const fn stress_ramp(&self) -> Option<StressRamp> {
        self.stress_ramp
    }

    /// The rates of the measurement and how long each lasts; empty for a constant one.
    pub(crate) fn rate_steps(&self, rate: u32, length: Duration) -> Vec<(u32, Duration)> {
        let all: u32 = self.load.steps.iter().map(|step| step.share).sum();
        let steps = self.load.steps.iter().map(|step| {
            let rate = (f64::from(rate) * step.rate_factor).round() as u32;
            (rate, length * step.share / all)
        });
        steps.collect()
    }

    /// The crowds of a live measurement that begins at `start` and takes `length` of market time.
    pub(crate) fn live_crowds(&self, start: MarketTime, length: Duration) -> Vec<Crowd> {
        let crowd = |plan: &CrowdPlan| plan.crowd(start + length.mul_f64(plan.starts_after_share));
        self.crowds.iter().map(crowd).collect()
    }

    /// The crowds of a simulated evening on the day of `at`.
    pub(crate) fn evening_crowds(&self, at: MarketTime) -> Vec<Crowd> {
        let crowd = |plan: &CrowdPlan| plan.crowd(at_time_of_day(at, plan.starts_at));
        self.crowds.iter().map(crowd).collect()
    }

    /// The part of the evening of the day of `at` that is scored: from half past four, as the
    /// office workers go home, until midnight, unless the scenario says otherwise. In a hurry until
    /// eight, unless a crowd comes later.
    pub(crate) fn scored(&self, at: MarketTime, in_a_hurry: bool) -> Range<MarketTime> {
        let usual_end = if in_a_hurry && self.crowds.is_empty() {
            EIGHT
        } else {
            DAY
        };
        let from = self.market.scored_from.unwrap_or(HALF_PAST_FOUR);
        let until = self
            .market
            .scored_until
            .unwrap_or(usual_end.max(from + HOUR));
        at_time_of_day(at, from)..at_time_of_day(at, until)
    }

    /// Pricings to compare with fresh data besides the dataflows, in evenings of the day of `at`.
    /// The default ages show from which on age matters.
    pub(crate) fn dial(&self, at: MarketTime) -> Vec<Pricing> {
        if self.market.dial.is_empty() {
            let ages = [1, 5, 15, 60].map(|age| Pricing::Delayed(minutes(age)));
            return ages.into_iter().chain([Pricing::WithoutSurge]).collect();
        }
        self.market
            .dial
            .iter()
            .map(|dial| dial.pricing(at))
            .collect()
    }

    /// Mistakes that no key has by itself.
    fn check(&self) -> Result<(), String> {
        const MOST_ROWS: usize = 20;
        let MarketPlan {
            dial,
            scored_from,
            scored_until,
        } = &self.market;
        if dial.len() > MOST_ROWS {
            return Err(format!("market.dial must have {MOST_ROWS} entries at most"));
        }
        if scored_until.unwrap_or(DAY) <= scored_from.unwrap_or(HALF_PAST_FOUR) {
            return Err("market.scored_until must come after market.scored_from".to_owned());
        }
        let is_silent = |step: &RateChange| step.rate_factor == 0.0;
        if !self.load.steps.is_empty() && self.load.steps.iter().all(is_silent) {
            return Err("load.steps must have a rate_factor above 0".to_owned());
        }
        if self.stress_ramp.is_some_and(|ramp| ramp.factor <= 1.0) {
            return Err(
                "the factor of a stress ramp must be above 1, or the rate never rises".to_owned(),
            );
        }
        Ok(())
    }

    /// # Errors
    /// A crowd that the services would refuse.
    pub(crate) fn takes_place_in(&self, area: &ServiceArea) -> Result<(), String> {
        let outside = |plan: &CrowdPlan| Some(area.admit(plan.place).err()?.to_string());
        match self.crowds.iter().find_map(outside) {
            Some(refused) => Err(format!("{}: crowd.place: {refused}", self.name)),
            None => Ok(()),
        }
    }
}

impl CrowdPlan {
    const fn crowd(&self, starts_at: MarketTime) -> Crowd {
        Crowd {
            place: self.place,
            starts_at,
            riders: self.riders,
            within: minutes(self.within_minutes),
        }
    }
}

impl Dial {
    fn pricing(self, at: MarketTime) -> Pricing {
        match self {
            Self::DelayedMinutes(age) => Pricing::Delayed(minutes(age)),
            Self::BatchMinutes(period) => Pricing::Batch(minutes(period)),
            Self::Nightly => Pricing::Nightly,
            Self::WithoutSurge => Pricing::WithoutSurge,
            Self::Outage(plan) => Pricing::Outage {
                from: at_time_of_day(at, plan.from),
                length: minutes(plan.minutes),
            },
        }
    }
}

const fn minutes(minutes: u32) -> Duration {
    Duration::from_secs(60 * minutes as u64)
}

/// A whole number in these bounds.
fn whole<'de, D: Deserializer<'de>, const LOW: u32, const HIGH: u32>(
    deserializer: D,
) -> Result<u32, D::Error> {
    let number = u32::deserialize(deserializer)?;
    if (LOW..=HIGH).contains(&number) {
        Ok(number)
    } else {
        Err(de::Error::custom(format!("must be {LOW} to {HIGH}")))
    }
}

fn some_whole<'de, D: Deserializer<'de>, const LOW: u32, const HIGH: u32>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    whole::<D, LOW, HIGH>(deserializer).map(Some)
}

/// A number in these bounds, whole or not.
fn number<'de, D: Deserializer<'de>, const LOW: u32, const HIGH: u32>(
    deserializer: D,
) -> Result<f64, D::Error> {
    let number = f64::deserialize(deserializer)?;
    if (f64::from(LOW)..=f64::from(HIGH)).contains(&number) {
        Ok(number)
    } else {
        Err(de::Error::custom(format!("must be {LOW} to {HIGH}")))
    }
}

/// A time of day such as `22:15`, as the time since midnight.
fn time_of_day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = NaiveTime::parse_from_str(&text, "%H:%M")
        .map_err(|_| de::Error::custom(format!("`{text}` is no time of day such as 22:15")))?;
    let since_midnight = time.signed_duration_since(NaiveTime::MIN);
    since_midnight.to_std().map_err(de::Error::custom)
}

fn time_of_day_if_any<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    time_of_day(deserializer).map(Some)
}

const HOUR: Duration = minutes(60);
const EIGHT: Duration = minutes(20 * 60);
const HALF_PAST_FOUR: Duration = minutes(16 * 60 + 30);
const DAY: Duration = minutes(24 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(text: &str) -> Result<Scenario, String> {
        Scenario::parse("test", &format!("purpose = \"to be read\"\n{text}"))
    }

    fn five_in_the_afternoon() -> MarketTime {
        "2014-04-04T17:00:00-04:00".parse().unwrap()
    }

    #[test]
    fn empty_file_is_the_plain_evening() {
        let plain = scenario("").unwrap();
        assert_eq!(plain.rate_steps(300, DAY), []);
        assert_eq!(plain.evening_crowds(five_in_the_afternoon()), []);
        let scored = plain.scored(five_in_the_afternoon(), false);
        assert_eq!(scored.start.to_string(), "2014-04-04T20:30:00.000Z");
        assert_eq!(scored.end.to_string(), "2014-04-05T04:00:00.000Z");
    }

    #[test]
    fn steps_share_measurement_and_multiply_rate() {
        let spike =
            scenario("load.steps = [{share = 1, rate_factor = 1}, {share = 2, rate_factor = 10}]");
        let second = Duration::from_secs(1);
        let steps = spike.unwrap().rate_steps(300, second * 30);
        assert_eq!(steps, [(300, second * 10), (3_000, second * 20)]);
    }

    #[test]
    fn crowd_has_live_and_simulated_time() {
        let text = "[[crowd]]\nplace = {lat = 40.75, lon = -73.99}\nriders = 3\nwithin_minutes = \
            21\nstarts_after_share = 0.5\nstarts_at = \"22:15\"";
        let concert = scenario(text).unwrap();
        let start = five_in_the_afternoon();
        let live = concert.live_crowds(start, minutes(60));
        assert_eq!(live[0].starts_at, start + minutes(30));
        let evening = concert.evening_crowds(start);
        assert_eq!(evening[0].starts_at, start + minutes(5 * 60 + 15));
        assert_eq!((evening[0].riders, evening[0].within), (3, minutes(21)));
    }

    #[test]
    fn dial_names_pricings() {
        let text = "market.dial = [\"nightly\", {batch_minutes = 5}, {outage = {from = \"18:00\", \
            minutes = 26}}]";
        let dial = scenario(text).unwrap().dial(five_in_the_afternoon());
        let labels: Vec<String> = dial.iter().map(ToString::to_string).collect();
        assert_eq!(
            labels,
            ["nightly batch", "5 min batch", "no surge for 26 min"]
        );
    }

    #[test]
    fn mistake_is_named_with_its_remedy() {
        for (text, said) in [
            ("moon = 1", "expected one of"),
            (
                "[climb]\nfactor = 0.5\nstep_seconds = 1\nmost_steps = 1",
                "must be 1 to 10",
            ),
            ("market.scored_from = \"noon\"", "`noon` is no time of day"),
            ("market.dial = [{batch_minutes = 0}]", "must be 1 to 1440"),
            ("market.dial = [\"weekly\"]", "batch_minutes"),
            (
                "load.steps = [{share = 1, rate_factor = 0}]",
                "rate_factor above 0",
            ),
            (
                "[climb]\nfactor = 1\nstep_seconds = 1\nmost_steps = 1",
                "never rises",
            ),
            (
                "load.steps = [{share = 1, rate_factor = nan}]",
                "must be 0 to 1000",
            ),
        ] {
            let refused = scenario(text).unwrap_err();
            assert!(refused.contains(said), "{text}: {refused}");
            assert!(refused.starts_with("test: "), "{refused}");
        }
    }
}
