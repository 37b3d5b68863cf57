//! Decides where a trace begins whether it is made at all. A span that nobody will keep still costs a quote more than the
//! quote itself, so the decision falls before the first span and not, as the SDK does it, inside each of them: a span is
//! made under a sampled one, or by [`root`], or not at all.

use std::{
    cell::Cell,
    env,
    hash::{BuildHasher, RandomState},
};

use tracing::{Metadata, Span, Subscriber, dispatcher, subscriber::Interest};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

/// What a caller said of the trace that it carries along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// It carries none: the trace begins here, or nowhere.
    Silent,
    /// It is traced.
    Sampled,
    /// It is not.
    Unsampled,
}

/// Makes the span with which a trace begins in this process, unless the sampler decides against it; then the span is
/// disabled, and so is everything that would be under it.
pub fn root(upstream: Upstream, make: impl FnOnce() -> Span) -> Span {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            BEGINNING.set(false);
        }
    }
    if !is_wanted(upstream) {
        return Span::none();
    }
    BEGINNING.set(true);
    let _reset = Reset;
    make()
}

/// What the sampler says: before the span is described, because most of the time it says no.
fn is_wanted(upstream: Upstream) -> bool {
    dispatcher::get_default(|subscriber| {
        let head = subscriber.downcast_ref::<HeadSampling>();
        head.is_none_or(|head| head.sampler.wants(upstream))
    })
}

thread_local! {
    /// Set while [`root`] makes its span: making a span never leaves its thread.
    static BEGINNING: Cell<bool> = const { Cell::new(false) };
}

/// The layer that keeps spans from being made. Logs are none of its business.
#[derive(Debug)]
pub(crate) struct HeadSampling {
    sampler: Sampler,
}

impl HeadSampling {
    pub(crate) const fn new(sampler: Sampler) -> Self {
        Self { sampler }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for HeadSampling {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.is_span() {
            Interest::sometimes()
        } else {
            Interest::always()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        if !metadata.is_span() {
            return true;
        }
        BEGINNING.get() || context.current_span().id().is_some()
    }
}

/// What `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` ask for
/// (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Share of the traces that begin here, 0 to 1.
    share: f64,
    /// Whether what a caller decided is kept to.
    follows_caller: bool,
}

/// The sampler's settings make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownSampler {
    /// No such sampler.
    #[error(
        "OTEL_TRACES_SAMPLER={0} is unknown; it is one of always_on, always_off, traceidratio, parentbased_always_on, \
         parentbased_always_off, parentbased_traceidratio"
    )]
    Name(String),
    /// No share.
    #[error("OTEL_TRACES_SAMPLER_ARG={0} is not a share from 0 to 1")]
    Share(String),
}

impl Sampler {
    /// Traces nothing.
    pub const OFF: Self = Self {
        share: 0.0,
        follows_caller: false,
    };

    /// Reads the environment; the default is to trace everything that the caller does not exclude.
    ///
    /// # Errors
    /// Says which variable is wrong, and how.
    pub fn from_env() -> Result<Self, UnknownSampler> {
        let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let name = variable("OTEL_TRACES_SAMPLER");
        let share = variable("OTEL_TRACES_SAMPLER_ARG");
        Self::named(
            name.as_deref().unwrap_or("parentbased_always_on"),
            share.as_deref(),
        )
    }

    fn named(name: &str, share: Option<&str>) -> Result<Self, UnknownSampler> {
        let (follows_caller, kind) = match name.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, name),
        };
        let share = match kind {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => share.map_or(Ok(1.0), share_of)?,
            _ => return Err(UnknownSampler::Name(name.to_owned())),
        };
        Ok(Self {
            share,
            follows_caller,
        })
    }

    fn wants(self, upstream: Upstream) -> bool {
        match upstream {
            Upstream::Sampled if self.follows_caller => true,
            Upstream::Unsampled if self.follows_caller => false,
            _ => self.draws(),
        }
    }

    /// True for about `share` of the calls.
    fn draws(self) -> bool {
        self.share >= 1.0 || (self.share > 0.0 && chance() < self.share)
    }
}

fn share_of(text: &str) -> Result<f64, UnknownSampler> {
    let share = text
        .parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| UnknownSampler::Share(text.to_owned()))
}

/// A number from 0 to 1. No two hashers of the standard library have the same keys, which is all the chance that sampling
/// needs.
fn chance() -> f64 {
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use tracing::info_span;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn under<T>(sampler: Sampler, test: impl FnOnce() -> T) -> T {
        let subscriber = tracing_subscriber::registry().with(HeadSampling::new(sampler));
        tracing::subscriber::with_default(subscriber, test)
    }

    fn named(name: &str, share: &str) -> Sampler {
        Sampler::named(name, Some(share)).unwrap()
    }

    #[test]
    fn a_span_is_made_under_a_root_and_nowhere_else() {
        under(named("always_on", ""), || {
            assert!(info_span!("quote").is_disabled());
            let root = root(Upstream::Silent, || info_span!("HTTP"));
            assert!(!root.is_disabled());
            let _entered = root.entered();
            assert!(!info_span!("quote").is_disabled());
        });
    }

    #[test]
    fn what_the_caller_decided_is_kept_to_unless_told_otherwise() {
        let sampled = |sampler, upstream| {
            under(sampler, || {
                !root(upstream, || info_span!("HTTP")).is_disabled()
            })
        };
        let none = named("parentbased_traceidratio", "0");
        assert!(sampled(none, Upstream::Sampled));
        assert!(!sampled(none, Upstream::Silent));
        let all = named("parentbased_always_on", "");
        assert!(!sampled(all, Upstream::Unsampled));
        assert!(sampled(named("always_on", ""), Upstream::Unsampled));
        assert!(!sampled(Sampler::OFF, Upstream::Sampled));
    }

    #[test]
    fn about_the_share_that_was_asked_for_is_drawn() {
        let tenth = named("traceidratio", "0.1");
        let drawn = (0..20_000).filter(|_| tenth.draws()).count();
        assert!((1_700..2_300).contains(&drawn), "{drawn} of 20000");
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_with_what_would() {
        let refused = Sampler::named("sometimes", None).unwrap_err().to_string();
        assert!(refused.contains("parentbased_traceidratio"), "{refused}");
        let refused = Sampler::named("traceidratio", Some("7")).unwrap_err();
        assert_eq!(refused, UnknownSampler::Share("7".to_owned()));
    }
}
