//! Which traces are made. The decision falls where a trace would begin, before its first span is
//! described.
//!
//! # How this works
//! A span that nobody will look at costs a quote more than the quote itself. So a layer of the
//! subscriber keeps unwanted spans from being made at all; the sampler of the SDK, which decides
//! inside each span, has nothing to decide here.
//!
//! ```text
//!  request ────▶ its caller samples it, or sends `surge-trace: on` ──▶ yes
//!            ├─▶ its caller does not sample it ──────────────────────▶ no
//!            └─▶ its caller says nothing ──▶ a token in the bucket? ─▶ yes or no
//!  background work ────────────────────────▶ a token in its bucket? ─▶ yes or no
//!  every later span ───────────────────────▶ a parent in this process? ─▶ yes or no
//! ```
//!
//! The default sampler is a *token bucket*: it holds at most 20 tokens, gains 20 a second, and each
//! trace that begins in this process takes one. A quote that a person sends by hand finds a token;
//! of a load test's 10,000 quotes a second, 20 are traced, and the test costs what it costs.
//! Background work has a bucket of its own, so that requests leave tokens to it: a quote in mode
//! `events` links to the publisher's traces.

use std::{
    cell::Cell,
    env, fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use tracing::{Metadata, Span, Subscriber, dispatcher, subscriber::Interest};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

/// The header with which a caller asks that its request be traced: `surge-trace: on`.
pub const TRACE_HEADER: &str = "surge-trace";

/// Traces a second that begin in one process, where `OTEL_TRACES_SAMPLER` chooses no other sampler.
const DEFAULT_TRACES_PER_SECOND: f64 = 20.0;

/// Where a trace would begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// At a request whose caller decided nothing.
    Request,
    /// At a request whose caller traces it, or asks for a trace.
    SampledRequest,
    /// At a request whose caller does not trace it.
    UnsampledRequest,
    /// At work that no request asked for.
    Background,
}

/// Makes the first span of work that no request asked for, such as one round of a publisher, unless
/// the sampler decides against it.
pub fn background_span(make: impl FnOnce() -> Span) -> Span {
    first_span(Beginning::Background, make)
}

/// Makes the first span of a trace in this process. Where the sampler decides against it, this span
/// is disabled, and so is every span below it.
pub(crate) fn first_span(beginning: Beginning, make: impl FnOnce() -> Span) -> Span {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            BEGINNING.set(false);
        }
    }
    let is_sampled = dispatcher::get_default(|subscriber| {
        let sampler = subscriber.downcast_ref::<Sampler>();
        sampler.is_none_or(|sampler| sampler.samples(beginning))
    });
    if !is_sampled {
        return Span::none();
    }
    BEGINNING.set(true);
    let _reset = Reset;
    make()
}

thread_local! {
    /// Set while [`first_span`] makes its span: making a span never leaves its thread.
    static BEGINNING: Cell<bool> = const { Cell::new(false) };
}

/// The sampler that `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` choose
/// (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>), and
/// `ratelimiting` besides.
#[derive(Debug)]
pub struct Sampler {
    rule: Rule,
    /// Whether the decision of a caller goes before the rule.
    follows_caller: bool,
}

/// Which of the traces that begin here are made.
#[derive(Debug)]
enum Rule {
    /// This share of them, 0 to 1.
    Share(f64),
    /// At most this number a second of requests, and as many of background work.
    PerSecond {
        traces: f64,
        requests: TokenBucket,
        background: TokenBucket,
    },
}

/// The settings of the sampler make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownSampler {
    /// There is no such sampler.
    #[error(
        "OTEL_TRACES_SAMPLER={0} is unknown; it is one of always_on, always_off, traceidratio, \
         ratelimiting, parentbased_always_on, parentbased_always_off, parentbased_traceidratio, \
         parentbased_ratelimiting"
    )]
    Name(String),
    /// The argument is no share.
    #[error("OTEL_TRACES_SAMPLER_ARG={0} is not a share from 0 to 1")]
    Share(String),
    /// The argument is no rate.
    #[error("OTEL_TRACES_SAMPLER_ARG={0} is not a number of traces a second, 0.1 to 100000")]
    Rate(String),
}

/// As a layer of the subscriber, the sampler keeps spans from being made. It lets all log events
/// pass.
impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Sampler {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.is_span() {
            Interest::sometimes()
        } else {
            Interest::always()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        !metadata.is_span() || BEGINNING.get() || context.current_span().id().is_some()
    }
}

impl Sampler {
    /// Traces nothing.
    pub const OFF: Self = Self {
        rule: Rule::Share(0.0),
        follows_caller: false,
    };

    /// Reads the environment. The default is `parentbased_ratelimiting` with 20 traces a second.
    ///
    /// # Errors
    /// Says which variable is wrong, and how.
    pub fn from_env() -> Result<Self, UnknownSampler> {
        let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let name = variable("OTEL_TRACES_SAMPLER");
        let argument = variable("OTEL_TRACES_SAMPLER_ARG");
        let name = name.as_deref().unwrap_or("parentbased_ratelimiting");
        Self::named(name, argument.as_deref())
    }

    fn named(name: &str, argument: Option<&str>) -> Result<Self, UnknownSampler> {
        let kind = name.strip_prefix("parentbased_");
        let rule = match kind.unwrap_or(name) {
            "always_on" => Rule::Share(1.0),
            "always_off" => Rule::Share(0.0),
            "traceidratio" => Rule::Share(argument.map_or(Ok(1.0), share)?),
            "ratelimiting" => {
                let traces = argument.map_or(Ok(DEFAULT_TRACES_PER_SECOND), rate)?;
                Rule::PerSecond {
                    traces,
                    requests: TokenBucket::full(traces),
                    background: TokenBucket::full(traces),
                }
            }
            _ => return Err(UnknownSampler::Name(name.to_owned())),
        };
        Ok(Self {
            rule,
            follows_caller: kind.is_some(),
        })
    }

    fn samples(&self, beginning: Beginning) -> bool {
        match (beginning, &self.rule) {
            (Beginning::SampledRequest, _) if self.follows_caller => true,
            (Beginning::UnsampledRequest, _) if self.follows_caller => false,
            (_, Rule::Share(share)) => {
                *share >= 1.0 || (*share > 0.0 && rand::random::<f64>() < *share)
            }
            (Beginning::Background, Rule::PerSecond { background, .. }) => background.take(),
            (_, Rule::PerSecond { requests, .. }) => requests.take(),
        }
    }
}

/// Completes the sentence "Traced: …".
impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::Share(share) if *share >= 1.0 => f.write_str("every request"),
            Rule::Share(share) => write!(f, "{} % of the requests", share * 100.0),
            Rule::PerSecond { traces, .. } => write!(f, "at most {traces} requests a second"),
        }?;
        if self.follows_caller && !matches!(self.rule, Rule::Share(1.0..)) {
            write!(f, ", and those with the header {TRACE_HEADER}: on")?;
        }
        Ok(())
    }
}

/// A token bucket without a clerk: nobody fills it. It remembers when it would be full again if
/// nobody took a token, and each token taken moves that moment on by the time in which one token
/// comes in.
#[derive(Debug)]
struct TokenBucket {
    made: Instant,
    nanos_per_token: u64,
    /// Nanoseconds after `made`.
    full_at: AtomicU64,
}

impl TokenBucket {
    /// A bucket that gains this many tokens a second, and is full with as many, but with one at
    /// least.
    fn full(tokens_per_second: f64) -> Self {
        Self {
            made: Instant::now(),
            nanos_per_token: (1e9 / tokens_per_second) as u64,
            full_at: AtomicU64::new(0),
        }
    }

    /// Takes one token, if there is one.
    fn take(&self) -> bool {
        self.take_at(self.made.elapsed().as_nanos() as u64)
    }

    fn take_at(&self, now: u64) -> bool {
        let nanos_from_empty_to_full = self.nanos_per_token.max(1_000_000_000);
        let take = |full_at: u64| {
            let full_at = full_at.max(now) + self.nanos_per_token;
            (full_at - now <= nanos_from_empty_to_full).then_some(full_at)
        };
        let relaxed = Ordering::Relaxed;
        self.full_at.fetch_update(relaxed, relaxed, take).is_ok()
    }
}

fn share(text: &str) -> Result<f64, UnknownSampler> {
    number_within(text, 0.0, 1.0).ok_or_else(|| UnknownSampler::Share(text.to_owned()))
}

fn rate(text: &str) -> Result<f64, UnknownSampler> {
    number_within(text, 0.1, 1e5).ok_or_else(|| UnknownSampler::Rate(text.to_owned()))
}

fn number_within(text: &str, least: f64, most: f64) -> Option<f64> {
    let number = text.parse().ok();
    number.filter(|number| (least..=most).contains(number))
}

#[cfg(test)]
mod tests {
    use tracing::info_span;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn under<T>(sampler: Sampler, test: impl FnOnce() -> T) -> T {
        let subscriber = tracing_subscriber::registry().with(sampler);
        tracing::subscriber::with_default(subscriber, test)
    }

    fn named(name: &str, argument: &str) -> Sampler {
        Sampler::named(name, Some(argument)).unwrap()
    }

    #[test]
    fn makes_spans_under_first_span_only() {
        under(named("always_on", ""), || {
            assert!(info_span!("quote").is_disabled());
            let first = first_span(Beginning::Request, || info_span!("HTTP"));
            assert!(!first.is_disabled());
            let _entered = first.entered();
            assert!(!info_span!("quote").is_disabled());
        });
    }

    #[test]
    fn parent_based_samplers_follow_the_caller() {
        let none = named("parentbased_traceidratio", "0");
        assert!(none.samples(Beginning::SampledRequest));
        assert!(!none.samples(Beginning::Request));
        let all = named("parentbased_always_on", "");
        assert!(!all.samples(Beginning::UnsampledRequest));
        assert!(named("always_on", "").samples(Beginning::UnsampledRequest));
        assert!(!Sampler::OFF.samples(Beginning::SampledRequest));
        under(none, || {
            assert!(first_span(Beginning::Request, || info_span!("HTTP")).is_disabled());
        });
    }

    #[test]
    fn ratio_sampler_samples_about_its_share() {
        let tenth = named("traceidratio", "0.1");
        let sampled = (0..20_000).filter(|_| tenth.samples(Beginning::Request));
        let sampled = sampled.count();
        assert!((1_700..2_300).contains(&sampled), "{sampled} of 20000");
    }

    #[test]
    fn bucket_gains_tokens_up_to_one_second() {
        let bucket = TokenBucket::full(20.0);
        let taken_at = |seconds: f64| {
            let now = (seconds * 1e9) as u64;
            (0..1_000).filter(|_| bucket.take_at(now)).count()
        };
        assert_eq!(taken_at(0.0), 20);
        assert_eq!(taken_at(0.1), 2);
        assert_eq!(taken_at(0.12), 0);
        assert_eq!(taken_at(100.0), 20);
        let slow = TokenBucket::full(0.1);
        assert_eq!(
            (slow.take_at(0), slow.take_at(9_000_000_000)),
            (true, false)
        );
        assert!(slow.take_at(10_000_000_000));
    }

    #[test]
    fn default_sampler_keeps_tokens_for_background_work() {
        let default = Sampler::named("parentbased_ratelimiting", None).unwrap();
        let requests = (0..1_000).filter(|_| default.samples(Beginning::Request));
        assert!((20..30).contains(&requests.count()));
        assert!(default.samples(Beginning::Background));
        assert!(default.samples(Beginning::SampledRequest));
    }

    #[test]
    fn wrong_settings_are_refused_with_right_ones() {
        let refused = Sampler::named("sometimes", None).unwrap_err().to_string();
        assert!(refused.contains("parentbased_traceidratio"), "{refused}");
        let refused = Sampler::named("traceidratio", Some("7")).unwrap_err();
        assert_eq!(refused, UnknownSampler::Share("7".to_owned()));
        let refused = Sampler::named("ratelimiting", Some("0")).unwrap_err();
        assert_eq!(refused, UnknownSampler::Rate("0".to_owned()));
    }

    #[test]
    fn sampler_says_what_it_traces() {
        let says = |name, argument| named(name, argument).to_string();
        let limited = "at most 5 requests a second, and those with the header surge-trace: on";
        assert_eq!(says("parentbased_ratelimiting", "5"), limited);
        assert_eq!(says("parentbased_always_on", ""), "every request");
        assert_eq!(says("traceidratio", "0.02"), "2 % of the requests");
    }
}
