//! Shows that work is going on: a bar on a terminal, a plain line every few seconds anywhere else. All of it goes to
//! standard error, so that standard output holds the result alone.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Where the steps of a run are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    terminal: bool,
}

impl Progress {
    /// Looks once whether a person is watching.
    pub(crate) fn on_stderr() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
        }
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
        let display = Display::new(self.terminal, title, length);
        let mut every = tokio::time::interval(if self.terminal { FRAME } else { LINE });
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => {
                    display.clear();
                    return result;
                }
                _ = every.tick() => display.update(&detail()),
            }
        }
    }
}

/// Time between two frames of the bar.
const FRAME: Duration = Duration::from_millis(200);

/// Time between two plain lines.
const LINE: Duration = Duration::from_secs(5);

struct Display {
    title: String,
    started: Instant,
    length: Duration,
    bar: Option<ProgressBar>,
}

impl Display {
    fn new(terminal: bool, title: &str, length: Duration) -> Self {
        let bar = terminal.then(|| {
            let bar = ProgressBar::new(length.as_millis() as u64).with_style(bar_style());
            bar.set_prefix(title.to_owned());
            bar
        });
        Self {
            title: title.to_owned(),
            started: Instant::now(),
            length,
            bar,
        }
    }

    fn update(&self, detail: &str) {
        let elapsed = self.started.elapsed().min(self.length);
        let left = (self.length - elapsed).as_secs_f64().ceil();
        match &self.bar {
            Some(bar) => {
                bar.set_position(elapsed.as_millis() as u64);
                bar.set_message(format!("{left:.0} s left  {detail}"));
            }
            None => anstream::eprintln!("{}: {left:.0} s left; {detail}", self.title),
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:<10} {bar:30} {wide_msg}")
        .expect("the template is a constant")
}
