//! The command `city`: one city as a process of its own, with health, metrics and its ground truth
//! over HTTP, until Ctrl-C.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use marketplace::new_york;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::city::{City, CityOutcome};
use crate::client::Client;
use crate::counters::CityProgress;
use crate::output::note;
use crate::server::CityServer;

/// Runs a city until a signal, and shows its progress.
///
/// # Errors
/// If another city uses the same services, or the city cannot start.
pub async fn run(args: Args) -> anyhow::Result<CityOutcome> {
    let stop = crate::interrupt::on_signal();
    let config = args.replay.config(args.target.resolve()?)?;
    let client = Client::new(CALL_DEADLINE);
    let server = CityServer::claim(&args.target.city()?, args.addr, &client).await?;
    let city = City::start(config, client).await?;
    let url = server.url();
    server.serve(city.state());
    let line = ProgressLine::new();
    line.say(&format!("the city lives; its ground truth: {url}/v1/truth"));
    for reason in city.distrust() {
        line.say(&format!("warning: {reason}"));
    }
    watch(&city, &line, args.minutes, &stop).await;
    line.say("taking the drivers offline");
    let outcome = city.stop().await;
    line.end(&outcome);
    Ok(outcome)
}

/// Longest wait of a rider's or driver's app for an answer.
const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// Shows progress until a signal, or for this number of market minutes.
async fn watch(city: &City, line: &ProgressLine, minutes: Option<u32>, stop: &CancellationToken) {
    let mut ticks = interval(line.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let market = Duration::from_secs(60) * minutes.unwrap_or(0);
    let end = Instant::now() + city.clock().real(market);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep_until(end), if minutes.is_some() => return,
            _ = ticks.tick() => line.show(&city.progress()),
        }
    }
}

/// One line of a terminal that is written again and again; in a log file, a line every few seconds.
struct ProgressLine {
    bar: Option<ProgressBar>,
    every: Duration,
}

impl ProgressLine {
    fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self {
                bar: None,
                every: Duration::from_secs(5),
            };
        }
        let style = ProgressStyle::with_template("{spinner} {wide_msg}")
            .expect("a constant template is valid");
        Self {
            bar: Some(ProgressBar::new_spinner().with_style(style)),
            every: Duration::from_millis(200),
        }
    }

    fn show(&self, progress: &CityProgress) {
        let text = describe(progress);
        match &self.bar {
            Some(bar) => {
                bar.set_message(text);
                bar.tick();
            }
            None => note(text),
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => note(text),
        }
    }

    fn end(&self, outcome: &CityOutcome) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        note(describe(&outcome.progress));
        for (kind, count) in &outcome.progress.errors_by_kind {
            note(format_args!("  {count} x {kind}"));
        }
        if outcome.drivers_left_behind > 0 {
            note(format_args!(
                "  {} drivers could not be taken offline",
                outcome.drivers_left_behind
            ));
        }
    }
}

fn describe(progress: &CityProgress) -> String {
    let CityProgress {
        quotes,
        priced_out,
        requests,
        matched,
        unserved,
        completed,
        ..
    } = progress;
    let multiplier = progress
        .mean_multiplier
        .map_or_else(|| "-".to_owned(), |mean| format!("{mean:.2}"));
    format!(
        "{}  quotes {quotes} (mean {multiplier}x, {priced_out} priced out)  requests {requests}  \
         matched {matched}  unserved {unserved}  completed {completed}  errors {}",
        new_york::show(progress.market_time, "%a %H:%M"),
        progress.errors()
    )
}

#[cfg(test)]
mod tests {
    use marketplace::MarketTime;

    use super::*;
    use crate::counters::Counters;

    #[test]
    fn shows_progress_in_new_york_time() {
        let friday: MarketTime = "2014-04-04T17:42:10-04:00".parse().unwrap();
        let line = describe(&Counters::default().progress(friday));
        assert!(line.starts_with("Fri 17:42  quotes 0 (mean -x"), "{line}");
    }
}
