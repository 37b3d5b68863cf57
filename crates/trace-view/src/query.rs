//! A search, parsed from the parameters of the Jaeger query API. A trace matches if *one* of its
//! spans meets every condition, as in Jaeger. A wrong parameter is refused by name: to ignore it
//! would show the wrong traces.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    ids::TraceId,
    span::{Span, SpanKind},
    store::Trace,
};

/// Traces in an answer to a query without a limit; the UI always sends one.
const DEFAULT_LIMIT: usize = 20;

/// The highest limit that the UI's form allows.
const MAX_LIMIT: usize = 1_500;

/// Ids in one query; the UI compares two traces.
const MAX_IDS: usize = 100;

/// The Jaeger UI asks for the dependencies of a week.
const DEFAULT_DEPENDENCY_LOOKBACK: Duration = Duration::from_secs(7 * 24 * 3_600);

/// A wrong parameter.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("parameter '{parameter}' {reason}")]
pub(crate) struct BadParameter {
    parameter: &'static str,
    reason: String,
}

/// The parameters of a request, in order, repeats included.
#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct Parameters(Vec<(String, String)>);

/// A search by content.
#[derive(Debug, PartialEq)]
pub(crate) struct TraceQuery {
    pub(crate) limit: usize,
    service: Option<String>,
    operation: Option<String>,
    tags: BTreeMap<String, String>,
    duration_ns: (u64, u64),
    start_ns: (u64, u64),
}

/// A query for the calls between services.
#[derive(Debug, PartialEq)]
pub(crate) struct DependencyQuery {
    start_ns: (u64, u64),
}

impl BadParameter {
    /// The refusal of a trace id.
    pub(crate) fn trace_id(reason: &'static str) -> Self {
        refuse("traceID")(reason)
    }
}

impl Parameters {
    /// The ids of `/api/traces?traceID=...&traceID=...`; none for a search by content.
    pub(crate) fn trace_ids(&self) -> Result<Vec<TraceId>, BadParameter> {
        let named = self.0.iter().filter(|(name, _)| name == "traceID");
        let ids: Vec<TraceId> = named
            .map(|(_, text)| text.parse().map_err(BadParameter::trace_id))
            .collect::<Result<_, _>>()?;
        if ids.len() > MAX_IDS {
            return Err(refuse("traceID")(format!(
                "may be given at most {MAX_IDS} times"
            )));
        }
        Ok(ids)
    }

    /// The search by content; `lookback` counts back from `now`.
    pub(crate) fn trace_query(&self, now: SystemTime) -> Result<TraceQuery, BadParameter> {
        Ok(TraceQuery {
            limit: self.limit()?,
            service: self.text("service").map(str::to_owned),
            operation: self.text("operation").map(str::to_owned),
            tags: self.tags()?,
            duration_ns: self.duration_range()?,
            start_ns: self.start_range(now)?,
        })
    }

    /// The query for the calls between services; the UI gives its time in milliseconds.
    pub(crate) fn dependency_query(
        &self,
        now: SystemTime,
    ) -> Result<DependencyQuery, BadParameter> {
        let milliseconds = |count: u64| count.saturating_mul(1_000_000);
        let end = self
            .number("endTs")?
            .map_or(nanoseconds_since_epoch(now), milliseconds);
        let lookback = self
            .number("lookback")?
            .map_or(whole_nanoseconds(DEFAULT_DEPENDENCY_LOOKBACK), milliseconds);
        Ok(DependencyQuery {
            start_ns: (end.saturating_sub(lookback), end),
        })
    }

    /// The service, which is required.
    pub(crate) fn service(&self) -> Result<&str, BadParameter> {
        self.text("service")
            .ok_or_else(|| refuse("service")("is required"))
    }

    /// The kind of span, if one is named.
    pub(crate) fn span_kind(&self) -> Result<Option<SpanKind>, BadParameter> {
        let Some(text) = self.text("spanKind") else {
            return Ok(None);
        };
        let kind = SpanKind::NAMED
            .into_iter()
            .find(|kind| kind.name() == Some(text));
        kind.map(Some).ok_or_else(|| {
            refuse("spanKind")("must be internal, server, client, producer or consumer")
        })
    }

    /// Whether to indent the JSON.
    pub(crate) fn pretty(&self) -> bool {
        self.text("prettyPrint") == Some("true")
    }

    /// The first value of that name. An empty one counts as absent: a form sends every field.
    fn text(&self, parameter: &str) -> Option<&str> {
        let named = self.0.iter().find(|(name, _)| name == parameter);
        named
            .map(|(_, text)| text.as_str())
            .filter(|text| !text.is_empty())
    }

    fn number(&self, parameter: &'static str) -> Result<Option<u64>, BadParameter> {
        let refused = |_| refuse(parameter)("must be a whole number, not negative");
        self.text(parameter)
            .map(str::parse)
            .transpose()
            .map_err(refused)
    }

    fn limit(&self) -> Result<usize, BadParameter> {
        let Some(text) = self.text("limit") else {
            return Ok(DEFAULT_LIMIT);
        };
        let limit = text
            .parse()
            .ok()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit));
        limit
            .ok_or_else(|| refuse("limit")(format!("must be a whole number from 1 to {MAX_LIMIT}")))
    }

    fn tags(&self) -> Result<BTreeMap<String, String>, BadParameter> {
        let Some(text) = self.text("tags") else {
            return Ok(BTreeMap::new());
        };
        let refused =
            |_| refuse("tags")(r#"must be a JSON object of strings, such as {"error":"true"}"#);
        serde_json::from_str(text).map_err(refused)
    }

    fn duration_range(&self) -> Result<(u64, u64), BadParameter> {
        let shortest = self.duration("minDuration")?.unwrap_or(0);
        let longest = self.duration("maxDuration")?.unwrap_or(u64::MAX);
        if shortest > longest {
            return Err(refuse("maxDuration")(
                "must not be shorter than minDuration",
            ));
        }
        Ok((shortest, longest))
    }

    fn duration(&self, parameter: &'static str) -> Result<Option<u64>, BadParameter> {
        let Some(text) = self.text(parameter) else {
            return Ok(None);
        };
        let refused = || refuse(parameter)("must be a duration such as 1.2s, 100ms or 500us");
        duration_ns(text).map(Some).ok_or_else(refused)
    }

    /// `start` and `end` are microseconds since the epoch; `lookback` counts only where `start` is
    /// not given.
    fn start_range(&self, now: SystemTime) -> Result<(u64, u64), BadParameter> {
        let microseconds = |count: u64| count.saturating_mul(1_000);
        let latest = self.number("end")?.map(microseconds);
        let earliest = match self.number("start")? {
            Some(start) => microseconds(start),
            None => latest
                .unwrap_or_else(|| nanoseconds_since_epoch(now))
                .saturating_sub(self.lookback()?),
        };
        let latest = latest.unwrap_or(u64::MAX);
        if earliest > latest {
            return Err(refuse("end")("must not be before start"));
        }
        Ok((earliest, latest))
    }

    fn lookback(&self) -> Result<u64, BadParameter> {
        let Some(text) = self.text("lookback").filter(|text| *text != "custom") else {
            return Ok(u64::MAX);
        };
        let refused = || refuse("lookback")("must be a duration such as 5m, 1h or 2d");
        duration_ns(text).ok_or_else(refused)
    }
}

impl TraceQuery {
    /// Whether one span of the trace meets every condition.
    pub(crate) fn matches(&self, trace: &Trace) -> bool {
        trace.spans.iter().any(|span| self.matches_span(span))
    }

    fn matches_span(&self, span: &Span) -> bool {
        let named =
            |asked: &Option<String>, own: &str| asked.as_deref().is_none_or(|asked| asked == own);
        within(self.start_ns, span.start_ns)
            && within(self.duration_ns, span.duration_ns)
            && named(&self.service, &span.process.service)
            && named(&self.operation, &span.operation)
            && self.tags.iter().all(|(key, text)| span.has_tag(key, text))
    }
}

impl DependencyQuery {
    /// Whether the trace started in the time of the query.
    pub(crate) fn matches(&self, trace: &Trace) -> bool {
        within(self.start_ns, trace.start_ns())
    }
}

fn refuse<R: Into<String>>(parameter: &'static str) -> impl FnOnce(R) -> BadParameter {
    move |reason| BadParameter {
        parameter,
        reason: reason.into(),
    }
}

fn within((least, most): (u64, u64), value: u64) -> bool {
    least <= value && value <= most
}

/// Nanoseconds of a duration such as `1.5h` or `1m30s`.
fn duration_ns(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let number_end =
            rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail
            .find(|character: char| character.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        total += number.parse::<f64>().ok()? * unit_ns(unit)?;
        rest = tail;
    }
    // A century in nanoseconds fits; a longer time is a typing error.
    (!text.is_empty() && total < 3.2e18).then_some(total as u64)
}

fn unit_ns(unit: &str) -> Option<f64> {
    match unit {
        "ns" => Some(1.0),
        "us" | "µs" | "μs" => Some(1e3),
        "ms" => Some(1e6),
        "s" => Some(1e9),
        "m" => Some(60e9),
        "h" => Some(3_600e9),
        "d" => Some(86_400e9),
        "w" => Some(604_800e9),
        _ => None,
    }
}

/// A time as spans give it; a time before 1970 becomes 1970.
pub(crate) fn nanoseconds_since_epoch(instant: SystemTime) -> u64 {
    whole_nanoseconds(instant.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn whole_nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        Parameters(
            pairs
                .iter()
                .map(|(name, text)| (name.to_string(), text.to_string()))
                .collect(),
        )
    }

    #[test]
    fn reads_durations_with_units() {
        let expected = [
            ("1.2s", 1_200_000_000),
            ("100ms", 100_000_000),
            ("500us", 500_000),
            ("500µs", 500_000),
            ("1m30s", 90_000_000_000),
            ("2d", 172_800_000_000_000),
        ];
        for (text, nanoseconds) in expected {
            assert_eq!(duration_ns(text), Some(nanoseconds), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1.2.3s",
            "5 s",
            "1e3s",
            "5y",
            "99999999999w",
        ] {
            assert_eq!(duration_ns(text), None, "{text}");
        }
    }

    #[test]
    fn refusal_names_the_wrong_parameter() {
        let bad = [
            ("limit", "0"),
            ("limit", "1501"),
            ("start", "-1"),
            ("end", "soon"),
            ("minDuration", "long"),
            ("lookback", "1y"),
            ("tags", "error=true"),
            ("tags", r#"{"error":true}"#),
        ];
        for (name, text) in bad {
            let refused = parameters(&[(name, text)])
                .trace_query(SystemTime::now())
                .unwrap_err();
            assert_eq!(refused.parameter, name, "{text}");
        }
        assert!(parameters(&[("traceID", "xyz")]).trace_ids().is_err());
    }

    #[test]
    fn refuses_empty_ranges() {
        let backwards = parameters(&[("start", "2"), ("end", "1")]);
        assert_eq!(
            backwards
                .trace_query(SystemTime::now())
                .unwrap_err()
                .parameter,
            "end"
        );
        let crossed = parameters(&[("minDuration", "2s"), ("maxDuration", "1s")]);
        assert_eq!(
            crossed
                .trace_query(SystemTime::now())
                .unwrap_err()
                .parameter,
            "maxDuration"
        );
    }

    #[test]
    fn lookback_counts_from_now_without_start() {
        let now = UNIX_EPOCH + Duration::from_secs(7_200);
        let hour = parameters(&[("lookback", "1h")]).trace_query(now).unwrap();
        assert_eq!(hour.start_ns, (3_600_000_000_000, u64::MAX));
        let started = parameters(&[("lookback", "1h"), ("start", "5")])
            .trace_query(now)
            .unwrap();
        assert_eq!(started.start_ns, (5_000, u64::MAX));
        let all = parameters(&[("lookback", "custom"), ("service", "")])
            .trace_query(now)
            .unwrap();
        assert_eq!((all.start_ns, all.service), ((0, u64::MAX), None));
    }
}
