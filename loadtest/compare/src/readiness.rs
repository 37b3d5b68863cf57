//! Before anything is measured: are the services there, and does every mode answer one quote?

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use marketplace::Position;
use serde::Deserialize;
use std::collections::BTreeMap;
use surge_proto::DataflowMode;

use city::Client;
use city::Target;
use engine::NoAnswer;
use engine::{CheckedQuote, QuoteClient, QuoteFailure, QuoteRequest};

/// Waits until each service says that it is ready; one that is not there at all is not waited for.
///
/// # Errors
/// Names every service that is missing or not ready after `patience`, and what to do.
pub(crate) async fn services(
    client: &Client,
    target: &Target,
    patience: Duration,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    let mut complaints = Vec::new();
    for (name, base) in target.services() {
        if let Err(complaint) = service(client, base, deadline).await {
            complaints.push(format!("  {name} at {base}: {complaint}"));
        }
    }
    ensure!(
        complaints.is_empty(),
        "the services are not all there:\n{}\nStart them with `./surge up`, or name another address with --target.",
        complaints.join("\n")
    );
    Ok(())
}

async fn service(client: &Client, base: &str, deadline: Instant) -> Result<(), String> {
    let url = format!("{base}/readyz");
    loop {
        let answer = client.get(&url).await.map_err(|error| error.to_string())?;
        if answer.status.is_success() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let down = answer.json().map(|readiness: Readiness| readiness.down());
            return Err(down.unwrap_or_else(|_| format!("status {}", answer.status)));
        }
        tokio::time::sleep(BETWEEN_PROBES).await;
    }
}

/// Asks every mode for quotes until it gives one from live data, or `patience` ends.
///
/// Returns the modes that still price without data.
///
/// # Errors
/// Names the mode that gave no quote at all, and its last words.
pub(crate) async fn modes(
    desk: &QuoteClient,
    modes: &[DataflowMode],
    patience: Duration,
) -> anyhow::Result<Vec<DataflowMode>> {
    let deadline = Instant::now() + patience;
    let mut without_data = Vec::new();
    for &mode in modes {
        match first_quote(desk, mode, deadline).await {
            Ok(quoted) if quoted.degraded => without_data.push(mode),
            Ok(_) => {}
            Err(failure) => bail!(
                "no quote in mode {mode}: {failure}\n\
                 `./surge status` shows what the mode needs; --modes leaves it out."
            ),
        }
    }
    Ok(without_data)
}

/// The first quote from live data, or what there is at the deadline. A wrong answer will not mend, so it ends at once.
async fn first_quote(
    desk: &QuoteClient,
    mode: DataflowMode,
    deadline: Instant,
) -> Result<CheckedQuote, QuoteFailure> {
    let question = QuoteRequest::new(mode, grand_central(), financial_district());
    loop {
        let outcome = desk.ask(question).await;
        let final_word = match &outcome {
            Ok(quoted) => !quoted.degraded,
            Err(QuoteFailure::NoAnswer(NoAnswer::Connect(_))) => true,
            Err(failure) => failure.is_wrong_answer(),
        };
        if final_word || Instant::now() >= deadline {
            return outcome;
        }
        tokio::time::sleep(BETWEEN_PROBES).await;
    }
}

const BETWEEN_PROBES: Duration = Duration::from_millis(200);

fn grand_central() -> Position {
    Position::new(40.7527, -73.9772).expect("a place in New York is on the globe")
}

fn financial_district() -> Position {
    Position::new(40.7075, -74.0113).expect("a place in New York is on the globe")
}

/// What `/readyz` says.
#[derive(Deserialize)]
struct Readiness {
    status: String,
    dependencies: BTreeMap<String, Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    status: String,
    reason: Option<String>,
}

impl Readiness {
    /// Which dependencies keep the service from being ready.
    fn down(self) -> String {
        let down = self
            .dependencies
            .into_iter()
            .filter(|(_, dependency)| dependency.status != "up")
            .map(|(name, dependency)| {
                let reason = dependency.reason.unwrap_or(dependency.status);
                format!("{name} is away ({reason})")
            });
        let down: Vec<String> = down.collect();
        format!("{}: {}", self.status, down.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use marketplace::Multiplier;

    use super::*;
    use engine::stand_in::{Behaviour, price_optimization};
    use engine::{LoadThread, Transport};

    fn target(base: &str) -> Target {
        Target {
            driver: base.to_owned(),
            ride: base.to_owned(),
            price: base.to_owned(),
        }
    }

    async fn desk(behaviour: Behaviour) -> QuoteClient {
        let url = price_optimization(behaviour).await;
        let (thread, cap) = (
            LoadThread::start().unwrap(),
            Multiplier::from_tenths(30).unwrap(),
        );
        QuoteClient::new(thread, Transport::Http, &url, cap, Duration::from_secs(2)).unwrap()
    }

    #[tokio::test]
    async fn a_service_that_is_not_there_is_named_with_what_to_do() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", closed.local_addr().unwrap());
        drop(closed);
        let client = Client::new(Duration::from_secs(2));
        let error = services(&client, &target(&base), Duration::ZERO)
            .await
            .unwrap_err()
            .to_string();
        for word in ["ride-management", &base, "./surge up", "--target"] {
            assert!(error.contains(word), "{word} is missing: {error}");
        }
    }

    #[tokio::test]
    async fn services_that_answer_are_accepted() {
        let base = price_optimization(Behaviour::default()).await;
        let client = Client::new(Duration::from_secs(2));
        services(&client, &target(&base), Duration::ZERO)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_mode_that_refuses_every_quote_stops_the_comparison() {
        let desk = desk(Behaviour {
            unavailable_every: Some(1),
            ..Behaviour::default()
        })
        .await;
        let refused = modes(&desk, &[DataflowMode::Events], Duration::ZERO).await;
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("mode events: status 503"), "{error}");
    }

    #[test]
    fn an_unready_service_says_what_it_misses() {
        let readiness: Readiness = serde_json::from_str(
            r#"{"status": "unready", "dependencies":
                {"nats": {"status": "down", "needed": true, "reason": "refused"}, "postgres": {"status": "up", "needed": true}}}"#,
        )
        .unwrap();
        assert_eq!(readiness.down(), "unready: nats is away (refused)");
    }
}
