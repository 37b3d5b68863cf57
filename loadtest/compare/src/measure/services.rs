//! The services under test: the connections to them, and whether they are ready.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use city::clock::CityClock;
use city::{Client, Target};
use engine::{
    CheckedQuote, LoadThread, NoAnswer, QuoteClient, QuoteFailure, QuoteQuery, Transport,
};
use marketplace::{Position, SurgePolicy};
use serde::Deserialize;
use surge_proto::DataflowMode;

use super::round_robin::QUOTE_DEADLINE;
use crate::args::Args;
use crate::wording::validity;

/// The services under test, and the clients that speak to them.
pub(crate) struct TestedServices {
    pub(crate) target: Target,
    /// The address of the city, where one can be derived.
    pub(crate) city_url: Option<String>,
    /// The city's own connections, so that its calls never wait behind quotes of the load.
    pub(crate) client: Client,
    pub(crate) quotes: QuoteClient,
    load_thread: LoadThread,
}

impl TestedServices {
    pub(crate) fn connect(args: &Args) -> anyhow::Result<Self> {
        const CITY_DEADLINE: Duration = Duration::from_secs(2);
        let target = args.target.resolve()?;
        let load_thread = LoadThread::start().context("no thread for the load")?;
        let address = match args.transport {
            Transport::Http => target.price.clone(),
            Transport::Grpc => args.target.grpc()?,
        };
        Ok(Self {
            quotes: quote_client(&load_thread, args.transport, &address)?,
            client: Client::new(CITY_DEADLINE),
            load_thread,
            city_url: args.target.city().ok(),
            target,
        })
    }

    /// A client of a bare server; all of them speak HTTP.
    pub(crate) fn quotes_at(&self, url: &str) -> anyhow::Result<QuoteClient> {
        quote_client(&self.load_thread, Transport::Http, url)
    }

    /// Makes sure that there is something to measure; returns the market clock and warnings.
    ///
    /// # Errors
    /// Names every service that is missing or not ready, or the mode that answers no quote, and
    /// what to do.
    pub(crate) async fn ready(&self, args: &Args) -> anyhow::Result<(CityClock, Vec<String>)> {
        let deadline = || Instant::now() + args.patience();
        services_are_ready(&self.client, &self.target, deadline()).await?;
        let clock = CityClock::read(&self.client, &self.target).await?;
        let modes = args.distinct_modes();
        let without_data = modes_answer(&self.quotes, &modes, deadline()).await?;
        Ok((
            clock,
            without_data
                .into_iter()
                .map(validity::no_live_data)
                .collect(),
        ))
    }
}

fn quote_client(
    thread: &LoadThread,
    transport: Transport,
    url: &str,
) -> anyhow::Result<QuoteClient> {
    let cap = SurgePolicy::default().effective_cap();
    QuoteClient::new(thread.clone(), transport, url, cap, QUOTE_DEADLINE)
}

/// Waits until each service says that it is ready; a service that is not there at all ends the
/// wait.
async fn services_are_ready(
    client: &Client,
    target: &Target,
    deadline: Instant,
) -> anyhow::Result<()> {
    let mut complaints = Vec::new();
    for (name, base) in target.services() {
        if let Err(complaint) = service_is_ready(client, base, deadline).await {
            complaints.push(format!("  {name} at {base}: {complaint}"));
        }
    }
    ensure!(
        complaints.is_empty(),
        "services are missing:\n{}\nStart them with `./surge up`, or name another address with \
         --target.",
        complaints.join("\n")
    );
    Ok(())
}

async fn service_is_ready(client: &Client, base: &str, deadline: Instant) -> Result<(), String> {
    let url = format!("{base}/readyz");
    loop {
        let answer = client.get(&url).await.map_err(|error| error.to_string())?;
        if answer.status.is_success() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let down = answer.json().map(|readiness: ReadyAnswer| readiness.down());
            return Err(down.unwrap_or_else(|_| format!("status {}", answer.status)));
        }
        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
    }
}

/// Requests quotes of every mode until it gives one from live data, or until the deadline. Returns
/// the modes that still price without data.
async fn modes_answer(
    quotes: &QuoteClient,
    modes: &[DataflowMode],
    deadline: Instant,
) -> anyhow::Result<Vec<DataflowMode>> {
    let mut without_data = Vec::new();
    for &mode in modes {
        match first_quote(quotes, mode, deadline).await {
            Ok(quote) if quote.degraded => without_data.push(mode),
            Ok(_) => {}
            Err(failure) => bail!(
                "no quote in mode {mode}: {failure}\n\
                 `./surge status` shows what the mode needs; --modes leaves it out."
            ),
        }
    }
    Ok(without_data)
}

/// The first quote from live data, or the last outcome before the deadline. A wrong answer stays
/// wrong, so it ends the wait.
async fn first_quote(
    quotes: &QuoteClient,
    mode: DataflowMode,
    deadline: Instant,
) -> Result<CheckedQuote, QuoteFailure> {
    let place = |lat, lon| Position::new(lat, lon).expect("a place in New York is on the globe");
    let (grand_central, wall_street) = (place(40.7527, -73.9772), place(40.7075, -74.0113));
    let request = QuoteQuery::new(mode, grand_central, wall_street);
    loop {
        let outcome = quotes.ask(request).await;
        let is_final = match &outcome {
            Ok(quote) => !quote.degraded,
            Err(QuoteFailure::NoAnswer(NoAnswer::Connect(_))) => true,
            Err(failure) => failure.is_wrong_answer(),
        };
        if is_final || Instant::now() >= deadline {
            return outcome;
        }
        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
    }
}

const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);

/// The answer of `/readyz`.
#[derive(Deserialize)]
struct ReadyAnswer {
    status: String,
    dependencies: BTreeMap<String, ReadyDependency>,
}

#[derive(Deserialize)]
struct ReadyDependency {
    status: String,
    reason: Option<String>,
}

impl ReadyAnswer {
    /// The dependencies that keep the service from being ready.
    fn down(self) -> String {
        let dependencies = self.dependencies.into_iter();
        let down = dependencies.filter(|(_, dependency)| dependency.status != "up");
        let down = down.map(|(name, dependency)| {
            let reason = dependency.reason.unwrap_or(dependency.status);
            format!("{name} is away ({reason})")
        });
        format!("{}: {}", self.status, down.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use engine::stand_in::{Behaviour, price_optimization};
    use marketplace::Multiplier;

    use super::*;

    fn target(base: &str) -> Target {
        Target {
            driver: base.to_owned(),
            ride: base.to_owned(),
            price: base.to_owned(),
        }
    }

    #[tokio::test]
    async fn missing_service_is_named_with_remedy() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", closed.local_addr().unwrap());
        drop(closed);
        let client = Client::new(Duration::from_secs(2));
        let refused = services_are_ready(&client, &target(&base), Instant::now()).await;
        let error = refused.unwrap_err().to_string();
        for word in ["ride-management", &base, "./surge up", "--target"] {
            assert!(error.contains(word), "{word} is missing: {error}");
        }
    }

    #[tokio::test]
    async fn answering_services_are_accepted() {
        let base = price_optimization(Behaviour::default()).await;
        let client = Client::new(Duration::from_secs(2));
        services_are_ready(&client, &target(&base), Instant::now())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn mode_without_quotes_stops_the_comparison() {
        let url = price_optimization(Behaviour {
            unavailable_every: Some(1),
            ..Behaviour::default()
        });
        let (thread, cap) = (
            LoadThread::start().unwrap(),
            Multiplier::from_tenths(30).unwrap(),
        );
        let deadline = Duration::from_secs(2);
        let quotes = QuoteClient::new(thread, Transport::Http, &url.await, cap, deadline).unwrap();
        let refused = modes_answer(&quotes, &[DataflowMode::Events], Instant::now()).await;
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("mode events: status 503"), "{error}");
    }

    #[test]
    fn unready_service_names_its_missing_dependency() {
        let readiness: ReadyAnswer = serde_json::from_str(
            r#"{"status": "unready", "dependencies":
                {"nats": {"status": "down", "needed": true, "reason": "refused"},
                 "postgres": {"status": "up", "needed": true}}}"#,
        )
        .unwrap();
        assert_eq!(readiness.down(), "unready: nats is away (refused)");
    }
}
