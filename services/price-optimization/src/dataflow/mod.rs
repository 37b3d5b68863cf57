//! The seam between the price and the data: one question, three siblings that answer it, and the only `match` on the
//! mode. A mode decides how old the answer is and how it can fail; what is made of the answer is the same for all.

pub mod database;
pub mod events;
pub mod passage;
pub mod request;
mod shared;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use marketplace::zone::Zone;
use platform::deadline::within;
use surge_proto::DataflowMode;

use crate::{
    config::{Config, SharedReadWindow},
    dataflow::{
        database::DatabaseDataflow,
        events::{EventsDataflow, Subscriber},
        passage::Told,
        request::{Callees, RequestDataflow},
        shared::SharedReads,
    },
    error::{DataflowError, Error},
    store::Store,
};

/// A way in which supply and demand reach the price.
#[async_trait]
pub trait Dataflow: std::fmt::Debug + Send + Sync {
    /// Supply and demand of `zones`, in their order, each with the moment it describes, and how they came here. What nobody
    /// has told yet is missing from the view, not an error.
    async fn market_view(&self, zones: &[Zone]) -> Result<Told, DataflowError>;
}

/// All three dataflows, connected at once, so that a switch is instant and a single quote may choose.
#[derive(Clone, Debug)]
pub struct Dataflows {
    database: Arc<dyn Dataflow>,
    request: Arc<dyn Dataflow>,
    /// Public to the composition root, which asks for their health.
    pub(crate) callees: Callees,
    /// Public to the composition root, which asks whether what it heard is still usable.
    pub(crate) events: Arc<EventsDataflow>,
    deadline: Duration,
}

impl Dataflows {
    /// Opens all three.
    ///
    /// # Errors
    /// When a URL cannot be used.
    pub fn connect(config: &Config, store: Store, subscriber: &Subscriber) -> anyhow::Result<Self> {
        let request = RequestDataflow::connect(config)?;
        let callees = request.callees();
        Ok(Self {
            database: reading(DatabaseDataflow::new(store), config),
            request: reading(request, config),
            callees,
            events: Arc::new(EventsDataflow::new(subscriber)),
            deadline: config.dataflow_deadline,
        })
    }

    /// Asks the dataflow of `mode`, for no longer than the deadline.
    ///
    /// # Errors
    /// [`Error::Dataflow`] when the mode has no answer.
    pub async fn market_view(&self, mode: DataflowMode, zones: &[Zone]) -> Result<Told, Error> {
        let answer = within(self.deadline, self.of(mode).market_view(zones));
        let answer = answer
            .await
            .unwrap_or(Err(DataflowError::Deadline(self.deadline)));
        answer.map_err(|cause| Error::Dataflow { mode, cause })
    }

    fn of(&self, mode: DataflowMode) -> &dyn Dataflow {
        match mode {
            DataflowMode::Database => &*self.database,
            DataflowMode::Request => &*self.request,
            DataflowMode::Events => &*self.events,
        }
    }
}

/// A dataflow that does something outside this process for every quote, or, where that is asked for, for several at once.
fn reading(dataflow: impl Dataflow + 'static, config: &Config) -> Arc<dyn Dataflow> {
    let dataflow = Arc::new(dataflow);
    match config.shared_reads {
        SharedReadWindow::Off => dataflow,
        SharedReadWindow::Of(window) => {
            let deadline = config.dataflow_deadline;
            Arc::new(SharedReads::of(dataflow, window, deadline))
        }
    }
}
