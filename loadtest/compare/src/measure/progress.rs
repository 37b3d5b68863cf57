//! Shows how far a run is: indicatif's bar on a terminal, a plain line every few seconds anywhere
//! else. All of it goes to standard error, so that standard output holds the result alone.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where the phases of a run are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    terminal: bool,
    later: Duration,
}

/// How far a phase is that consists of many like steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Steps {
    pub(crate) done: u64,
    /// All steps, as far as can be known now.
    pub(crate) all: u64,
}

/// Time between two frames of the bar.
const FRAME: Duration = Duration::from_millis(200);

/// Time between two plain lines.
const LINE: Duration = Duration::from_secs(5);

impl Progress {
    /// Looks once whether standard error is a terminal.
    pub(crate) fn on_stderr() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            later: Duration::ZERO,
        }
    }

    /// The same for a phase after which about so much remains to be done.
    pub(crate) const fn followed_by(self, later: Duration) -> Self {
        Self { later, ..self }
    }

    /// Runs a phase that takes about `length`; `detail` adds the state of the moment. A phase of
    /// like steps counts them in `steps`, and the time left is estimated from them as soon as one
    /// is done.
    pub(crate) async fn during<T>(
        self,
        title: &'static str,
        length: Duration,
        steps: impl Fn() -> Option<Steps>,
        detail: impl Fn() -> String,
        work: impl Future<Output = T>,
    ) -> T {
        let bar = self.bar(title);
        let mut every = tokio::time::interval(FRAME);
        let mut next_line = Duration::ZERO;
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => {
                    bar.finish_and_clear();
                    return result;
                }
                _ = every.tick() => {}
            }
            // Before the first step, and without steps, the clock counts.
            let elapsed = bar.elapsed();
            let steps = steps().filter(|steps| steps.done > 0);
            let position = steps.map_or(elapsed.as_millis() as u64, |steps| steps.done);
            bar.set_length(steps.map_or(length.max(elapsed).as_millis() as u64, |steps| steps.all));
            bar.set_position(position);
            let left = match steps {
                Some(steps) => Left::of_steps(steps, elapsed),
                None => Left::of(length, elapsed),
            };
            let left = left.in_words(self.later);
            if self.terminal {
                bar.set_message(format!("{left}  {}", detail()));
            } else if elapsed >= next_line {
                city::output::note(format_args!("{title}: {left}; {}", detail()));
                next_line += LINE;
            }
        }
    }

    fn bar(self, title: &'static str) -> ProgressBar {
        let target = if self.terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template("{prefix:<10} {bar:30} {wide_msg}");
        ProgressBar::with_draw_target(Some(1), target)
            .with_style(style.expect("the template is a constant"))
            .with_prefix(title)
    }
}

/// The rest of a phase.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Left {
    About(Duration),
    /// It should have ended so long ago.
    Overdue(Duration),
}

impl Left {
    fn of(length: Duration, elapsed: Duration) -> Self {
        // The last answers of a measurement may take so long.
        const TOLERANCE: Duration = Duration::from_secs(3);
        if elapsed > length + TOLERANCE {
            Self::Overdue(elapsed - length)
        } else {
            Self::About(length.saturating_sub(elapsed))
        }
    }

    /// The steps to come take as long as those that were done.
    fn of_steps(Steps { done, all }: Steps, elapsed: Duration) -> Self {
        Self::About(elapsed.mul_f64(all.saturating_sub(done) as f64 / done as f64))
    }

    fn in_words(self, later: Duration) -> String {
        // Never nothing while work remains.
        let (least, here) = match self {
            Self::About(left) => (left.max(Duration::from_secs(1)), None),
            Self::Overdue(by) => (Duration::from_secs(1), Some(by)),
        };
        let here = here.map_or_else(
            || format!("{} left", in_words(least)),
            |by| format!("{} longer than expected", in_words(by)),
        );
        if later.is_zero() {
            return here;
        }
        format!("{here}, {} of the whole run", in_words(least + later))
    }
}

/// Seconds up to two minutes, then minutes: no estimate is better than that.
fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds <= 120.0 {
        format!("{:.0} s", seconds.ceil())
    } else {
        format!("{:.0} min", (seconds / 60.0).ceil())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn countdown_never_ends_before_the_work() {
        let words = |elapsed| Left::of(seconds(60), seconds(elapsed)).in_words(Duration::ZERO);
        assert_eq!(words(18), "42 s left");
        assert_eq!(words(60), "1 s left");
        assert_eq!(words(62), "1 s left");
        assert_eq!(words(69), "9 s longer than expected");
    }

    #[test]
    fn steps_correct_the_expectation() {
        let words = |done, elapsed| {
            Left::of_steps(Steps { done, all: 10 }, seconds(elapsed)).in_words(Duration::ZERO)
        };
        assert_eq!(words(1, 5), "45 s left");
        assert_eq!(words(2, 10), "40 s left");
        assert_eq!(words(10, 50), "1 s left");
    }

    #[test]
    fn rest_of_the_run_stands_beside() {
        let left = Left::About(seconds(40));
        assert_eq!(
            left.in_words(seconds(60)),
            "40 s left, 100 s of the whole run"
        );
        assert_eq!(
            left.in_words(seconds(150)),
            "40 s left, 4 min of the whole run"
        );
    }
}
