//! The services under test, and the connections to them.

use std::time::Duration;

use anyhow::Context as _;
use marketplace::SurgePolicy;

use super::{Args, readiness};
use city::Client;
use city::Target;
use city::clock::MarketClock;
use engine::{LoadThread, QuoteClient, Transport};

/// The services under test, and the clients to speak to them.
pub(super) struct Suite {
    pub(super) target: Target,
    /// The city's own connections, so that its calls never wait behind quotes of the load.
    pub(super) client: Client,
    /// Where the load is made.
    thread: LoadThread,
    pub(super) desk: QuoteClient,
}

impl Suite {
    pub(super) fn of(args: &Args) -> anyhow::Result<Self> {
        let target = args.target.resolve()?;
        let thread = LoadThread::start().context("no thread for the load")?;
        let address = match args.transport {
            Transport::Http => target.price.clone(),
            Transport::Grpc => args.target.grpc()?,
        };
        Ok(Self {
            desk: desk(&thread, args.transport, &address)?,
            client: Client::new(CITY_DEADLINE),
            thread,
            target,
        })
    }

    /// A desk at a bare server; all of them speak HTTP.
    pub(super) fn desk_at(&self, url: &str) -> anyhow::Result<QuoteClient> {
        desk(&self.thread, Transport::Http, url)
    }

    /// Makes sure that there is something to measure; returns its clock and what to be wary of.
    pub(super) async fn ready(&self, args: &Args) -> anyhow::Result<(MarketClock, Vec<String>)> {
        readiness::services(&self.client, &self.target, args.patience()).await?;
        let clock = MarketClock::read(&self.client, &self.target).await?;
        let modes = args.distinct_modes();
        let without_data = readiness::modes(&self.desk, &modes, args.patience()).await?;
        let warning = |mode| format!("{mode} had no live data when the city started");
        Ok((clock, without_data.into_iter().map(warning).collect()))
    }
}

fn desk(thread: &LoadThread, transport: Transport, url: &str) -> anyhow::Result<QuoteClient> {
    let cap = SurgePolicy::default().effective_cap();
    QuoteClient::new(thread.clone(), transport, url, cap, QUOTE_DEADLINE)
}

/// Longer than any deadline inside the services: their own answer is worth more than our impatience. Short enough that
/// a service that stands still does not run us out of room at the default rate.
pub(super) const QUOTE_DEADLINE: Duration = Duration::from_secs(2);

const CITY_DEADLINE: Duration = Duration::from_secs(2);
