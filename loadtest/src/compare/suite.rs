//! The services under test, and the connections to them.

use std::time::Duration;

use marketplace::SurgePolicy;

use super::{Args, readiness};
use crate::client::Client;
use crate::clock::MarketClock;
use crate::load::QuoteDesk;
use crate::target::Target;

/// The services under test, and the clients to speak to them.
pub(super) struct Suite {
    pub(super) target: Target,
    /// The city's own connections, so that its calls never wait behind quotes of the load.
    pub(super) client: Client,
    pub(super) load_client: Client,
    pub(super) desk: QuoteDesk,
}

impl Suite {
    pub(super) fn of(args: &Args) -> anyhow::Result<Self> {
        let target = args.target.resolve()?;
        let load_client = Client::new(QUOTE_DEADLINE);
        Ok(Self {
            desk: desk(&load_client, &target.price)?,
            client: Client::new(CITY_DEADLINE),
            load_client,
            target,
        })
    }

    /// A desk at another address, to which the load's client takes its quotes too.
    pub(super) fn desk_at(&self, url: &str) -> anyhow::Result<QuoteDesk> {
        desk(&self.load_client, url)
    }

    /// Makes sure that there is something to measure; returns its clock and what to be wary of.
    pub(super) async fn ready(&self, args: &Args) -> anyhow::Result<(MarketClock, Vec<String>)> {
        readiness::services(&self.client, &self.target, args.patience()).await?;
        let clock = MarketClock::read(&self.client, &self.target).await?;
        let modes = args.distinct_modes();
        let without_data = readiness::modes(&self.desk, &modes, args.patience()).await?;
        self.load_client
            .open_connections(&self.target.price, CONNECTIONS)
            .await?;
        let warning = |mode| format!("{mode} had no live data when the city started");
        Ok((clock, without_data.into_iter().map(warning).collect()))
    }
}

fn desk(client: &Client, url: &str) -> anyhow::Result<QuoteDesk> {
    QuoteDesk::new(client.clone(), url, SurgePolicy::default().effective_cap())
}

/// Longer than any deadline inside the services: their own answer is worth more than our impatience. Short enough that
/// a service that stands still does not run us out of room at the default rate.
pub(super) const QUOTE_DEADLINE: Duration = Duration::from_secs(2);

const CITY_DEADLINE: Duration = Duration::from_secs(2);

/// Connections opened before the run; more come by themselves when the service is slow.
pub(super) const CONNECTIONS: usize = 128;
