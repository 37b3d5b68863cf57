//! Same market, same moment: every trip is requested of each mode in turn, at a fixed rate, and
//! judged by the oracle.
//!
//! **Coordinated omission.** A load generator that waits for an answer before it sends the next
//! request sends least while the server is slowest, so the slow moments are missing from its
//! percentiles. Here the times of sending are fixed before the run (an open loop), and the latency
//! of a quote counts from the moment at which it was *meant* to leave:
//!
//! ```text
//! meant to leave   |  |  |  |  |  |  |  |
//! server           ....[ stands still  ]....
//! latency                 ------------>          first request of the stall
//!                            --------->          second: shorter, but still counted
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::{Arrival, LoadPlan, QuoteClient, QuoteConnection, QuoteQuery, Schedule, SendReport};
use marketplace::{MarketTime, Multiplier, Position, Zone};
use surge_proto::DataflowMode;
use tokio_util::sync::CancellationToken;

use super::cpu_steal;
use super::mode_statistics::ModeStatistics;
use super::time_series::TimeSeries;
use crate::report::CpuSteal;

/// The pickup and the drop-off of the n-th trip.
pub(crate) type Trips = Arc<dyn Fn(u64) -> (Position, Position) + Send + Sync>;

/// The right multiplier of a zone at this moment; `None` when it is not known.
pub(crate) type Oracle = Arc<dyn Fn(Zone) -> Option<Multiplier> + Send + Sync>;

/// Longer than any deadline inside the services: their own answer is worth more than our
/// impatience. Short enough that a service that stands still does not exhaust the bound on quotes
/// under way at the default rate.
pub(crate) const QUOTE_DEADLINE: Duration = Duration::from_secs(2);

/// How long to wait for the last answers: a call that was cut off may need a moment to end.
const DRAIN: Duration = QUOTE_DEADLINE.saturating_add(Duration::from_millis(500));

/// Quotes under way at once, those included that wait for a connection. A quote without an answer
/// is given up after [`QUOTE_DEADLINE`], so up to 32,000 per second the bound is never met,
/// whatever the service does.
pub(crate) const MOST_IN_FLIGHT: u32 = 65_536;

#[derive(Clone)]
pub(crate) struct RoundRobin {
    pub(crate) client: QuoteClient,
    pub(crate) modes: Vec<DataflowMode>,
    pub(crate) trips: Trips,
    pub(crate) oracle: Oracle,
    /// Records the course, where it is to be shown.
    pub(crate) time_series: Option<Arc<TimeSeries>>,
}

impl RoundRobin {
    /// Requests quotes by the schedule until its end or until `stop`.
    pub(crate) async fn run(
        &self,
        schedule: Schedule,
        max_in_flight: u32,
        stop: &CancellationToken,
    ) -> LoadResult {
        let plan = LoadPlan {
            schedule,
            max_in_flight,
            drain: DRAIN,
        };
        let run = Arc::new(RunningRobin {
            statistics: self
                .modes
                .iter()
                .map(|_| Mutex::new(ModeStatistics::precise()))
                .collect(),
            robin: self.clone(),
        });
        let shared = Arc::clone(&run);
        let ask = move |connection, arrival| {
            let run = Arc::clone(&shared);
            async move { run.ask(connection, arrival).await }
        };
        let sent = self.client.run(plan, stop.clone(), ask);
        let (sent, steal) = cpu_steal::during(sent).await;
        LoadResult {
            modes: run.finished(&sent),
            sent: Some(sent),
            market: None,
            clock_set_by_s: 0.0,
            steal,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct LoadResult {
    pub(crate) modes: BTreeMap<DataflowMode, ModeStatistics>,
    /// How well the generator kept its schedule; `None` when the load never began.
    pub(crate) sent: Option<SendReport>,
    /// Market time at the first and at the last moment.
    pub(crate) market: Option<(MarketTime, MarketTime)>,
    /// Real seconds by which somebody set the wall clock meanwhile.
    pub(crate) clock_set_by_s: f64,
    /// CPU steal meanwhile; `None` where the operating system does not count it.
    pub(crate) steal: Option<CpuSteal>,
}

impl LoadResult {
    /// The result of a run that was stopped before its measurement.
    pub(crate) fn nothing(modes: &[DataflowMode]) -> Self {
        Self {
            modes: modes
                .iter()
                .map(|&mode| (mode, ModeStatistics::precise()))
                .collect(),
            sent: None,
            market: None,
            clock_set_by_s: 0.0,
            steal: None,
        }
    }

    /// How long quotes were requested.
    pub(crate) fn paced_for(&self) -> Duration {
        self.sent
            .as_ref()
            .map_or(Duration::ZERO, |sent| sent.paced_for)
    }

    /// From the first intended send to the last answer.
    pub(crate) fn lasted(&self) -> Duration {
        self.sent
            .as_ref()
            .map_or(Duration::ZERO, |sent| sent.lasted)
    }
}

/// A round-robin under way, with the statistics of each of its modes.
struct RunningRobin {
    robin: RoundRobin,
    // Std mutexes: held for a few additions, never across an await.
    statistics: Vec<Mutex<ModeStatistics>>,
}

impl RunningRobin {
    /// One trip goes round all modes before the next.
    async fn ask(&self, mut connection: QuoteConnection, arrival: Arrival) -> QuoteConnection {
        let Self { robin, statistics } = self;
        let modes = robin.modes.len() as u64;
        let (trip, turn) = (arrival.index / modes, (arrival.index % modes) as usize);
        let (pickup, dropoff) = (robin.trips)(trip);
        let request = QuoteQuery::new(robin.modes[turn], pickup, dropoff);
        let quote = connection.ask(&request, arrival.intended);
        // Looked up while the request is on its way: at the same time, and no part of the latency.
        let oracle = async { (robin.oracle)(request.zone) };
        let ((latency, outcome), oracle) = tokio::join!(biased; quote, oracle);
        if let Some(series) = &robin.time_series {
            series.add(arrival.due, robin.modes[turn], latency, &outcome, oracle);
        }
        let mut statistics = statistics[turn]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        statistics.add(arrival.due, latency, &outcome, oracle);
        drop(statistics);
        connection
    }

    /// The statistics of every mode, with the number of quotes that were due.
    fn finished(&self, sent: &SendReport) -> BTreeMap<DataflowMode, ModeStatistics> {
        let (modes, arrivals) = (self.statistics.len() as u64, sent.sent + sent.dropped);
        let finished = |(turn, &mode): (usize, &DataflowMode)| {
            let statistics = self.statistics[turn].lock();
            let mut statistics = statistics.unwrap_or_else(PoisonError::into_inner).clone();
            statistics.offered = (arrivals + modes - 1 - turn as u64) / modes;
            (mode, statistics)
        };
        self.robin.modes.iter().enumerate().map(finished).collect()
    }
}

#[cfg(test)]
mod tests {
    use engine::stand_in::{Behaviour, pickup, price_optimization};
    use engine::{LoadThread, Transport};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Requests 150 quotes per second of the stand-in for two seconds; the oracle says 1.3, as it
    /// does.
    async fn measured(behaviour: Behaviour) -> LoadResult {
        let url = price_optimization(behaviour).await;
        let thread = LoadThread::start().unwrap();
        let tenths = |tenths| Multiplier::from_tenths(tenths).unwrap();
        let robin = RoundRobin {
            client: QuoteClient::new(thread, Transport::Http, &url, tenths(30), 5 * SECOND)
                .unwrap(),
            modes: DataflowMode::ALL.to_vec(),
            trips: Arc::new(|_| (pickup(), pickup())),
            oracle: Arc::new(move |_| Some(tenths(13))),
            time_series: None,
        };
        let schedule = Schedule::constant(150, 2 * SECOND);
        robin.run(schedule, 1024, &CancellationToken::new()).await
    }

    /// Failures of all modes: how many were wrong answers, and the first example.
    fn wrong(measured: &LoadResult, mode: DataflowMode) -> Option<(u64, &str)> {
        let mut failures = measured.modes[&mode].failures();
        let wrong = failures.find(|failures| failures.wrong_answers)?;
        Some((wrong.count, &wrong.example))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn modes_share_arrivals_and_match_the_oracle() {
        let measured = measured(Behaviour::default()).await;
        assert_eq!(measured.modes.len(), 3);
        for statistics in measured.modes.values() {
            let counts = (statistics.offered, statistics.quotes, statistics.errors());
            assert_eq!(counts, (100, 100, 0));
            assert_eq!(statistics.deviation.error().mean_abs, Some(0.0));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stalled_server_shows_in_p99() {
        let stall = Some((SECOND, SECOND * 3 / 2));
        let measured = measured(Behaviour {
            stall,
            ..Behaviour::default()
        });
        for statistics in measured.await.modes.values() {
            let at =
                |quantile| Duration::from_micros(statistics.latency.value_at_quantile(quantile));
            let (p50, p99) = (at(0.5), at(0.99));
            assert!(p99 > SECOND * 4 / 10 && p99 < SECOND, "{p99:?}");
            assert!(p50 < p99 / 2, "{p50:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn answer_of_another_mode_is_wrong() {
        let measured = measured(Behaviour {
            always: Some("events"),
            ..Behaviour::default()
        });
        let measured = measured.await;
        assert_eq!(measured.modes[&DataflowMode::Events].errors(), 0);
        assert_eq!(
            wrong(&measured, DataflowMode::Database),
            Some((100, "asked for database, answered by events"))
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn refused_quotes_are_errors_without_latency() {
        let measured = measured(Behaviour {
            unavailable_every: Some(10),
            ..Behaviour::default()
        });
        let measured = measured.await;
        let (quotes, errors) = measured.modes.values().fold((0, 0), |sum, statistics| {
            assert_eq!(statistics.latency.len(), statistics.quotes);
            (sum.0 + statistics.quotes, sum.1 + statistics.errors())
        });
        assert_eq!((quotes, errors), (270, 30));
        assert_eq!(wrong(&measured, DataflowMode::Database), None);
    }
}
