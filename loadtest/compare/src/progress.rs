//! Shows that work is going on: a bar on a terminal, a plain line every few seconds anywhere else. All of it goes to
//! standard error, so that standard output holds the result alone.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Where the steps of a run are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    terminal: bool,
    later: Duration,
}

/// How far a piece of work is that consists of steps like one another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Steps {
    /// Those that are over.
    pub(crate) done: usize,
    /// How many there will have been in the end, as far as can be told now.
    pub(crate) all: usize,
}

impl Steps {
    /// Whether none is left.
    pub(crate) const fn is_done(self) -> bool {
        self.done >= self.all
    }
}

impl Progress {
    /// Looks once whether a person is watching.
    pub(crate) fn on_stderr() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            later: Duration::ZERO,
        }
    }

    /// The same for work after which about so much is to be done.
    pub(crate) const fn followed_by(self, later: Duration) -> Self {
        Self { later, ..self }
    }

    /// One line that stays.
    pub(crate) fn say(self, line: &str) {
        anstream::eprintln!("{line}");
    }

    /// Runs `work`, which is expected to take about `length`, and shows how far it is; `detail` adds what is
    /// worth knowing at the moment.
    pub(crate) async fn during<T>(
        self,
        title: &str,
        length: Duration,
        detail: impl Fn() -> String,
        work: impl Future<Output = T>,
    ) -> T {
        self.shown(title, length, || None, detail, work).await
    }

    /// [`Self::during`], of work whose `steps` tell whether the expectation was any good.
    pub(crate) async fn stepwise<T>(
        self,
        title: &str,
        length: Duration,
        steps: impl Fn() -> Steps,
        detail: impl Fn() -> String,
        work: impl Future<Output = T>,
    ) -> T {
        self.shown(title, length, || Some(steps()), detail, work)
            .await
    }

    async fn shown<T>(
        self,
        title: &str,
        length: Duration,
        steps: impl Fn() -> Option<Steps>,
        detail: impl Fn() -> String,
        work: impl Future<Output = T>,
    ) -> T {
        let mut display = Display::new(self, title, length);
        let mut every = tokio::time::interval(FRAME);
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => {
                    display.clear();
                    return result;
                }
                _ = every.tick() => display.update(steps(), &detail()),
            }
        }
    }
}

/// Time between two frames of the bar, and how soon a step that is done is seen.
const FRAME: Duration = Duration::from_millis(200);

/// Time between two plain lines.
const LINE: Duration = Duration::from_secs(5);

struct Display {
    title: String,
    started: Instant,
    forecast: Forecast,
    later: Duration,
    bar: Option<ProgressBar>,
    /// When the next plain line is due.
    next_line: Duration,
}

impl Display {
    fn new(progress: Progress, title: &str, length: Duration) -> Self {
        let bar = progress.terminal.then(|| {
            let bar = ProgressBar::new(WIDTH).with_style(bar_style());
            bar.set_prefix(title.to_owned());
            bar
        });
        Self {
            title: title.to_owned(),
            started: Instant::now(),
            forecast: Forecast::new(length),
            later: progress.later,
            bar,
            next_line: Duration::ZERO,
        }
    }

    fn update(&mut self, steps: Option<Steps>, detail: &str) {
        let elapsed = self.started.elapsed();
        let left = self.forecast.left(elapsed, steps);
        let words = left.in_words(self.later);
        match &self.bar {
            Some(bar) => {
                let share = elapsed.as_secs_f64() / (elapsed + left.at_least()).as_secs_f64();
                bar.set_position((share * WIDTH as f64) as u64);
                bar.set_message(format!("{words}  {detail}"));
            }
            None if elapsed >= self.next_line => {
                anstream::eprintln!("{}: {words}; {detail}", self.title);
                self.next_line += LINE;
            }
            None => {}
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Positions of the bar.
const WIDTH: u64 = 1_000;

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:<10} {bar:30} {wide_msg}")
        .expect("the template is a constant")
}

/// Tells what is left: from what was expected at first, and from the steps that are done when there are some.
struct Forecast {
    expected: Duration,
    done: usize,
    /// When the last step was done.
    at: Duration,
}

/// What is left of a piece of work.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Left {
    About(Duration),
    /// It should have been over so long ago.
    Overdue(Duration),
}

impl Forecast {
    const fn new(expected: Duration) -> Self {
        Self {
            expected,
            done: 0,
            at: Duration::ZERO,
        }
    }

    fn left(&mut self, elapsed: Duration, steps: Option<Steps>) -> Left {
        match steps {
            Some(steps) if steps.all > 0 => Left::About(self.of_steps(elapsed, steps)),
            _ if elapsed > self.expected + TOLERANCE => Left::Overdue(elapsed - self.expected),
            _ => Left::About(self.expected.saturating_sub(elapsed)),
        }
    }

    /// Those not begun take as long as those that were done; the one under way takes what is left of that, and when that
    /// is over, all of them take longer than was thought.
    fn of_steps(&mut self, elapsed: Duration, Steps { done, all }: Steps) -> Duration {
        if done != self.done {
            (self.done, self.at) = (done, elapsed);
        }
        if done >= all {
            return Duration::ZERO;
        }
        let seconds = |duration: Duration| duration.as_secs_f64();
        let since = seconds(elapsed.saturating_sub(self.at));
        let each = match done {
            0 => seconds(self.expected) / all as f64,
            done => seconds(self.at) / done as f64,
        };
        let (each, later) = (each.max(since), all.saturating_sub(done + 1));
        Duration::from_secs_f64(each - since + each * later as f64)
    }
}

/// The last answers of a measurement may take so long.
const TOLERANCE: Duration = Duration::from_secs(3);

impl Left {
    /// Never nothing while work remains.
    fn at_least(self) -> Duration {
        match self {
            Self::About(left) => left.max(Duration::from_secs(1)),
            Self::Overdue(_) => Duration::from_secs(1),
        }
    }

    fn in_words(self, later: Duration) -> String {
        let here = match self {
            Self::About(_) => format!("{} left", in_words(self.at_least())),
            Self::Overdue(by) => format!("{} longer than expected", in_words(by)),
        };
        if later.is_zero() {
            here
        } else {
            let run = in_words(self.at_least() + later);
            format!("{here}, {run} of the whole run")
        }
    }
}

/// Seconds to two minutes, then minutes: no estimate of ours is better than that.
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

    fn words(left: Left) -> String {
        left.in_words(Duration::ZERO)
    }

    #[test]
    fn work_of_a_known_length_is_counted_down_and_never_over_before_its_end() {
        let mut forecast = Forecast::new(seconds(60));
        assert_eq!(words(forecast.left(seconds(18), None)), "42 s left");
        assert_eq!(words(forecast.left(seconds(60), None)), "1 s left");
        assert_eq!(words(forecast.left(seconds(62), None)), "1 s left");
        let late = forecast.left(seconds(69), None);
        assert_eq!(words(late), "9 s longer than expected");
    }

    #[test]
    fn steps_correct_what_was_expected() {
        let mut forecast = Forecast::new(seconds(10));
        let steps = |done| Some(Steps { done, all: 10 });
        assert_eq!(words(forecast.left(seconds(0), steps(0))), "10 s left");
        // The first takes five times as long as was thought.
        assert_eq!(words(forecast.left(seconds(5), steps(0))), "45 s left");
        assert_eq!(words(forecast.left(seconds(5), steps(1))), "45 s left");
        assert_eq!(words(forecast.left(seconds(7), steps(1))), "43 s left");
        assert_eq!(words(forecast.left(seconds(10), steps(2))), "40 s left");
        assert_eq!(words(forecast.left(seconds(50), steps(10))), "1 s left");
    }

    #[test]
    fn the_rest_of_the_run_is_told_beside() {
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
