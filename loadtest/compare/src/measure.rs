//! Same market, same moment: every trip is asked of each mode in turn, at a fixed rate, and judged by the oracle.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use marketplace::{MarketTime, Multiplier, Position, Zone};
use surge_proto::DataflowMode;
use tokio_util::sync::CancellationToken;

use super::series::Recorder;
use super::stolen::{self, Stolen};
use super::tally::Tally;
use engine::{Arrival, LoadPlan, QuoteClient, QuoteConnection, QuoteRequest, SendReport};

/// The pickup and the drop-off of the n-th trip to ask for.
pub(crate) type Trips = Arc<dyn Fn(u64) -> (Position, Position) + Send + Sync>;

/// The multiplier that is right for a zone at this instant; `None` when there is no telling.
pub(crate) type Oracle = Arc<dyn Fn(Zone) -> Option<Multiplier> + Send + Sync>;

/// Asks for quotes, mode by mode in turn.
#[derive(Clone)]
pub(crate) struct RoundRobin {
    pub(crate) desk: QuoteClient,
    pub(crate) modes: Vec<DataflowMode>,
    pub(crate) trips: Trips,
    pub(crate) oracle: Oracle,
    /// Writes down the course of it, where somebody wants to see that.
    pub(crate) recorder: Option<Arc<Recorder>>,
}

impl RoundRobin {
    /// Asks as the plan says, until its end or until `stop`.
    pub(crate) async fn run(&self, plan: LoadPlan, stop: CancellationToken) -> Measured {
        let sheet = Arc::new(Sheet::new(self.clone()));
        let writer = sheet.clone();
        let ask = move |line, arrival| {
            let sheet = writer.clone();
            async move { sheet.ask(line, arrival).await }
        };
        let (delivery, stolen) = stolen::during(self.desk.run(plan, stop, ask)).await;
        Measured {
            tallies: sheet.tallies(&delivery),
            answered_within: Some(delivery.lasted),
            delivery: Some(delivery),
            market: None,
            clock_set_by_s: 0.0,
            stolen,
        }
    }
}

/// What a measurement brought.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) tallies: BTreeMap<DataflowMode, Tally>,
    /// `None` when the measurement never began.
    pub(crate) delivery: Option<SendReport>,
    /// From the first intended send to the last answer.
    pub(crate) answered_within: Option<Duration>,
    /// Market time at the first and at the last moment.
    pub(crate) market: Option<(MarketTime, MarketTime)>,
    /// Real seconds by which the wall clock was set meanwhile.
    pub(crate) clock_set_by_s: f64,
    /// What the hypervisor took meanwhile; `None` where nobody tells.
    pub(crate) stolen: Option<Stolen>,
}

impl Measured {
    /// The result of a run that was stopped before its measurement.
    pub(crate) fn nothing(modes: &[DataflowMode]) -> Self {
        Self {
            tallies: modes.iter().map(|&mode| (mode, Tally::new())).collect(),
            delivery: None,
            answered_within: None,
            market: None,
            clock_set_by_s: 0.0,
            stolen: None,
        }
    }

    /// What was told of a mode that was asked.
    pub(crate) fn tally(&self, mode: DataflowMode) -> &Tally {
        &self.tallies[&mode]
    }

    /// How many quotes of a mode were answered a second.
    pub(crate) fn answered_per_s(&self, mode: DataflowMode) -> Option<u32> {
        let seconds = self.answered_within?.as_secs_f64();
        (seconds > 0.0).then(|| (self.tally(mode).quotes as f64 / seconds) as u32)
    }

    /// How long quotes were asked for.
    pub(crate) fn paced_for(&self) -> Option<Duration> {
        self.delivery.as_ref().map(|delivery| delivery.paced_for)
    }
}

/// The round-robin with a tally beside each mode.
struct Sheet {
    plan: RoundRobin,
    // Std mutexes: held for a few additions, never across an await.
    tallies: Vec<Mutex<Tally>>,
}

impl Sheet {
    fn new(plan: RoundRobin) -> Self {
        let tallies = plan.modes.iter().map(|_| Mutex::new(Tally::new()));
        Self {
            tallies: tallies.collect(),
            plan,
        }
    }

    async fn ask(&self, mut line: QuoteConnection, arrival: Arrival) -> QuoteConnection {
        let (trip, lane) = self.place(arrival.index);
        let (pickup, dropoff) = (self.plan.trips)(trip);
        let question = QuoteRequest::new(self.plan.modes[lane], pickup, dropoff);
        let quote = line.ask(&question, arrival.intended);
        // Looked up while the request is on its way: of the same instant, and no part of the latency.
        let oracle = async { (self.plan.oracle)(question.zone) };
        let ((latency, outcome), oracle) = tokio::join!(biased; quote, oracle);
        if let Some(recorder) = &self.plan.recorder {
            let mode = self.plan.modes[lane];
            recorder.add(arrival.due, mode, latency, &outcome, oracle);
        }
        self.tallies[lane]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(arrival.due, latency, outcome, oracle);
        line
    }

    /// Which trip an arrival asks for, and of which mode: one trip goes round all modes before the next.
    fn place(&self, arrival: u64) -> (u64, usize) {
        let lanes = self.plan.modes.len() as u64;
        (arrival / lanes, (arrival % lanes) as usize)
    }

    fn tallies(&self, delivery: &SendReport) -> BTreeMap<DataflowMode, Tally> {
        let (lanes, arrivals) = (self.tallies.len() as u64, delivery.sent + delivery.dropped);
        let tally = |lane: usize| {
            let tally = self.tallies[lane].lock();
            let mut tally = tally.unwrap_or_else(PoisonError::into_inner).clone();
            tally.offered = (arrivals + lanes - 1 - lane as u64) / lanes;
            tally
        };
        let lanes = self.plan.modes.iter().enumerate();
        lanes.map(|(lane, &mode)| (mode, tally(lane))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::Capacities;
    use crate::verdict;
    use engine::stand_in::{Behaviour, pickup, price_optimization};
    use engine::{LoadThread, Schedule, Transport};

    const SECOND: Duration = Duration::from_secs(1);

    /// Asks the stand-in 150 quotes a second for two seconds; the oracle says 1.3, as it does.
    async fn measured(behaviour: Behaviour) -> Measured {
        let url = price_optimization(behaviour).await;
        let thread = LoadThread::start().unwrap();
        let tenths = |tenths| Multiplier::from_tenths(tenths).unwrap();
        let plan = LoadPlan {
            schedule: Schedule::constant(150, 2 * SECOND),
            max_in_flight: 1024,
            drain: 6 * SECOND,
        };
        RoundRobin {
            desk: QuoteClient::new(thread, Transport::Http, &url, tenths(30), 5 * SECOND).unwrap(),
            modes: DataflowMode::ALL.to_vec(),
            trips: Arc::new(|_| (pickup(), pickup())),
            oracle: Arc::new(move |_| Some(tenths(13))),
            recorder: None,
        }
        .run(plan, CancellationToken::new())
        .await
    }

    /// The reasons that do not depend on how busy the machine of the test is.
    fn void_reasons(mut measured: Measured) -> Vec<String> {
        measured.delivery.as_mut().unwrap().lateness.reset();
        measured.stolen = None;
        verdict::void_reasons(&measured, &Capacities::default(), false)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn each_mode_gets_its_share_and_agrees_with_the_oracle() {
        let measured = measured(Behaviour::default()).await;
        assert_eq!(measured.tallies.len(), 3);
        for tally in measured.tallies.values() {
            assert_eq!((tally.offered, tally.quotes, tally.errors()), (100, 100, 0));
            assert_eq!(tally.deviation.mean_abs(), Some(0.0));
        }
        assert_eq!(void_reasons(measured), [""; 0]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_stalls_half_a_second_shows_it() {
        let stall = Some((SECOND, SECOND * 3 / 2));
        let measured = measured(Behaviour {
            stall,
            ..Behaviour::default()
        })
        .await;
        for tally in measured.tallies.values() {
            let p99 = Duration::from_micros(tally.latency.value_at_quantile(0.99));
            assert!(p99 > SECOND * 4 / 10 && p99 < SECOND, "{p99:?}");
            let p50 = Duration::from_micros(tally.latency.value_at_quantile(0.5));
            assert!(p50 < p99 / 2, "{p50:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_mode_that_answers_under_another_name_voids_the_run() {
        let measured = measured(Behaviour {
            always: Some("events"),
            ..Behaviour::default()
        })
        .await;
        assert_eq!(measured.tallies[&DataflowMode::Events].errors(), 0);
        assert_eq!(
            void_reasons(measured)[0],
            "database: 100 answers were wrong, the first: asked for database, answered by events"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn refused_quotes_are_errors_and_have_no_latency() {
        let measured = measured(Behaviour {
            unavailable_every: Some(10),
            ..Behaviour::default()
        })
        .await;
        let (quotes, errors) = measured.tallies.values().fold((0, 0), |sum, tally| {
            assert_eq!(tally.latency.len(), tally.quotes);
            (sum.0 + tally.quotes, sum.1 + tally.errors())
        });
        assert_eq!((quotes, errors), (270, 30));
        assert_eq!(void_reasons(measured).len(), 3);
    }
}
