//! Calls to a callee with several replicas. Each replica is a real gRPC server on a runtime of its
//! own, so that the test can kill it as a process dies: its connections break in the middle of
//! calls.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::print_stdout, reason = "docs/kubernetes.md has the figures")]

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::{FutureExt, future::join_all};
use platform::grpc::{Calls, Resolver, Settings, TracedChannel, channel_with, is_overdue};
use surge_proto::v1::{
    DispatchRequest, DispatchResponse, GetSupplyRequest, GetSupplyResponse, ReleaseRequest,
    ReleaseResponse, ReportPositionsRequest, ReportPositionsResponse,
    supply_service_client::SupplyServiceClient,
    supply_service_server::{SupplyService, SupplyServiceServer},
};
use tokio::{runtime::Runtime, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};

/// Longest wait for a condition.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than any call here should take.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long a replica works on a call, so that there are always some in flight.
const WORK: Duration = Duration::from_millis(1);

#[tokio::test(flavor = "multi_thread")]
async fn spreads_load_over_all_replicas() {
    for (in_all, at_once) in [(3_000, 16), (900, 1)] {
        let replicas = Replica::three();
        let channel = Callee::of(&replicas).channel(Calls::Idempotent);
        let errors = load(&channel, in_all, at_once).await;

        let shares = replicas.each_ref().map(Replica::taken);
        println!("{in_all} calls, {at_once} at a time, over three replicas: {shares:?}");
        assert_eq!(errors.len(), 0, "{errors:?}");
        let even = in_all / 3;
        let tolerated = even - even / 4..even + even / 4;
        assert!(
            shares.iter().all(|share| tolerated.contains(share)),
            "{shares:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_replica_fails_only_calls_in_flight() {
    let mut replicas = Replica::three();
    let channel = Callee::of(&replicas).channel(Calls::NonIdempotent);
    let held = held_at(&replicas[2], &replicas, &channel).await;
    let in_flight = replicas[2].taken();

    replicas[2].die().await;
    let errors = errors_of(held).await;
    println!(
        "{in_flight} calls were in flight where a replica died, {} failed",
        errors.len()
    );
    assert_eq!(errors.len(), in_flight, "{errors:?}");
    assert!(!errors.iter().any(is_overdue), "away, not slow: {errors:?}");

    let later = load(&channel, 600, 8).await;
    assert_eq!(
        later.len(),
        0,
        "no call goes to the dead replica: {later:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_idempotent_call_at_another_replica() {
    let mut replicas = Replica::three();
    let channel = Callee::of(&replicas).channel(Calls::Idempotent);
    let held = held_at(&replicas[2], &replicas, &channel).await;
    let in_all = held.len();

    replicas[2].die().await;
    let errors = errors_of(held).await;
    assert_eq!(errors.len(), 0, "{errors:?}");
    assert_eq!(
        replicas[0].taken() + replicas[1].taken(),
        in_all,
        "each was made once more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn death_under_load_fails_calls_in_flight() {
    for calls in [Calls::NonIdempotent, Calls::Idempotent] {
        let mut replicas = Replica::three();
        let channel = Callee::of(&replicas).channel(calls);
        let (in_all, at_once) = (3_000, 16);
        let loading = tokio::spawn(load(&channel, in_all, at_once));
        eventually(|| replicas[1].taken() > 300).await;
        replicas[1].die().await;
        let errors = loading.await.unwrap();
        println!(
            "{calls:?}: {} of {in_all} calls failed; {at_once} were in flight",
            errors.len()
        );
        let tolerated = if calls == Calls::NonIdempotent {
            at_once
        } else {
            0
        };
        assert!(errors.len() <= tolerated, "{errors:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_returned_replica_again() {
    let mut replicas = Replica::three();
    let channel = Callee::of(&replicas).channel(Calls::NonIdempotent);
    replicas[0].die().await;
    assert_eq!(load(&channel, 100, 4).await.len(), 0);

    replicas[0].revive();
    used(&replicas, &channel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ejects_replica_that_hangs() {
    let replicas = Replica::three();
    let channel =
        Callee::of(&replicas).channel_within(Duration::from_millis(250), Calls::Idempotent);
    replicas[0].hold();
    let (in_all, at_once) = (3_000, 8);
    let errors = load(&channel, in_all, at_once).await;
    println!(
        "a replica hangs: {} of {in_all} calls were overdue",
        errors.len()
    );
    assert!(errors.iter().all(is_overdue), "slow, not away: {errors:?}");
    assert!(errors.len() <= 2 * at_once, "{}", errors.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_replica_found_later() {
    let replicas = Replica::three();
    let callee = Callee::of(&replicas[..1]);
    let channel = callee.channel(Calls::NonIdempotent);
    assert_eq!(load(&channel, 50, 4).await.len(), 0);
    assert_eq!(replicas[0].taken(), 50);

    callee.answers(&replicas);
    used(&replicas, &channel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_replica_finishes_calls_in_progress() {
    let replicas = Replica::three();
    let callee = Callee::of(&replicas);
    let channel = callee.channel(Calls::NonIdempotent);
    let held = held_at(&replicas[0], &replicas, &channel).await;

    callee.answers(&replicas[1..]);
    let before = callee.lookups();
    // The balancer has the result of the second lookup from now on when there is a third.
    eventually(|| callee.lookups() > before + 2).await;
    let in_flight = replicas[0].taken();
    assert_eq!(load(&channel, 100, 4).await.len(), 0);
    assert_eq!(replicas[0].taken(), in_flight, "no new calls");

    replicas[0].go_on();
    assert_eq!(errors_of(held).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_replicas_when_lookup_is_empty() {
    let replicas = Replica::three();
    let callee = Callee::of(&replicas);
    let channel = callee.channel(Calls::NonIdempotent);
    assert_eq!(load(&channel, 30, 1).await.len(), 0);
    let before = callee.lookups();
    callee.answers(&[]);
    eventually(|| callee.lookups() > before + 2).await;
    assert_eq!(load(&channel, 30, 1).await.len(), 0);
}

#[tokio::test]
async fn unreachable_callee_is_unavailable_not_overdue() {
    let mut replicas = Replica::three();
    let nameless = Callee::of(&[]).channel(Calls::Idempotent);
    let dead = Callee::of(&replicas).channel(Calls::Idempotent);
    for replica in &mut replicas {
        replica.die().await;
    }
    for channel in [nameless, dead] {
        let refused = ask(channel).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        assert!(!is_overdue(&refused));
    }
}

/// Makes forty calls and waits until some of them are held at `one`, and all others answered.
async fn held_at(
    one: &Replica,
    all: &[Replica],
    channel: &TracedChannel,
) -> Vec<JoinHandle<Result<(), Status>>> {
    one.hold();
    let calls: Vec<_> = (0..40)
        .map(|_| tokio::spawn(ask(channel.clone())))
        .collect();
    eventually(|| all.iter().map(Replica::taken).sum::<usize>() == calls.len()).await;
    let held = one.taken();
    eventually(|| calls.iter().filter(|call| !call.is_finished()).count() == held).await;
    assert!(held > 0);
    calls
}

async fn errors_of(calls: Vec<JoinHandle<Result<(), Status>>>) -> Vec<Status> {
    let answers = join_all(calls).await.into_iter().map(Result::unwrap);
    answers.filter_map(Result::err).collect()
}

/// Makes calls, of which none may fail, until all replicas got some.
async fn used(replicas: &[Replica], channel: &TracedChannel) {
    let before: Vec<usize> = replicas.iter().map(Replica::taken).collect();
    within(async {
        while replicas
            .iter()
            .zip(&before)
            .any(|(one, before)| one.taken() == *before)
        {
            assert_eq!(load(channel, 50, 4).await.len(), 0);
        }
    })
    .await;
}

/// Makes `in_all` calls, `at_once` at any moment; returns the errors.
fn load(
    channel: &TracedChannel,
    in_all: usize,
    at_once: usize,
) -> impl Future<Output = Vec<Status>> + use<> {
    let left = Arc::new(AtomicUsize::new(in_all));
    let channel = channel.clone();
    let asks = move || {
        let (channel, left) = (channel.clone(), Arc::clone(&left));
        tokio::spawn(async move {
            let one_less = |left: usize| left.checked_sub(1);
            let mut errors = Vec::new();
            while left.fetch_update(SeqCst, SeqCst, one_less).is_ok() {
                errors.extend(ask(channel.clone()).await.err());
            }
            errors
        })
    };
    async move {
        let asking: Vec<_> = (0..at_once).map(|_| asks()).collect();
        let errors = join_all(asking).await.into_iter().map(Result::unwrap);
        errors.flatten().collect()
    }
}

async fn ask(channel: TracedChannel) -> Result<(), Status> {
    let zones = vec!["872a100d6ffffff".to_owned()];
    let mut client = SupplyServiceClient::new(channel);
    client.get_supply(GetSupplyRequest { zones }).await?;
    Ok(())
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.expect("the condition should hold by now")
}

async fn eventually(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// A name whose addresses the test chooses.
#[derive(Clone, Default)]
struct Callee {
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
    lookups: Arc<AtomicUsize>,
}

impl Callee {
    fn of(replicas: &[Replica]) -> Self {
        let callee = Self::default();
        callee.answers(replicas);
        callee
    }

    fn answers(&self, replicas: &[Replica]) {
        *self.addresses.lock().unwrap() = replicas.iter().map(|one| one.address).collect();
    }

    fn lookups(&self) -> usize {
        self.lookups.load(SeqCst)
    }

    fn channel(&self, calls: Calls) -> TracedChannel {
        self.channel_within(DEADLINE, calls)
    }

    fn channel_within(&self, deadline: Duration, calls: Calls) -> TracedChannel {
        let callee = self.clone();
        let settings = Settings {
            deadline,
            calls,
            resolver: Resolver::new(move |_| {
                callee.lookups.fetch_add(1, SeqCst);
                let addresses = callee.addresses.lock().unwrap().clone();
                std::future::ready(Ok(addresses)).boxed()
            }),
            lookup_every: Duration::from_millis(100),
        };
        channel_with("http://driver-management:7201", settings).unwrap()
    }
}

/// A gRPC server that lives and dies like a process.
struct Replica {
    address: SocketAddr,
    runtime: Option<Runtime>,
    supply: Supply,
}

impl Replica {
    fn three() -> [Self; 3] {
        std::array::from_fn(|_| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut replica = Self {
                address: listener.local_addr().unwrap(),
                runtime: None,
                supply: Supply::new(),
            };
            replica.serve(listener);
            replica
        })
    }

    fn serve(&mut self, listener: TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let supply = self.supply.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let served = Server::builder()
                .add_service(SupplyServiceServer::new(supply))
                .serve_with_incoming(TcpListenerStream::new(listener));
            served.await.unwrap();
        });
        self.runtime = Some(runtime);
    }

    /// Calls that it received.
    fn taken(&self) -> usize {
        self.supply.taken.load(SeqCst)
    }

    /// Answers nothing from now on.
    fn hold(&self) {
        self.supply.held.send_replace(true);
    }

    fn go_on(&self) {
        self.supply.held.send_replace(false);
    }

    /// Ends at once, in the middle of whatever it does.
    async fn die(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
        eventually(|| std::net::TcpStream::connect(self.address).is_err()).await;
    }

    /// Listens where it did before it died.
    fn revive(&mut self) {
        self.serve(TcpListener::bind(self.address).unwrap());
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone)]
struct Supply {
    taken: Arc<AtomicUsize>,
    held: watch::Sender<bool>,
}

impl Supply {
    fn new() -> Self {
        Self {
            taken: Arc::default(),
            held: watch::Sender::new(false),
        }
    }
}

#[tonic::async_trait]
impl SupplyService for Supply {
    async fn get_supply(
        &self,
        _: Request<GetSupplyRequest>,
    ) -> Result<Response<GetSupplyResponse>, Status> {
        self.taken.fetch_add(1, SeqCst);
        let mut held = self.held.subscribe();
        let _ = held.wait_for(|held| !held).await;
        tokio::time::sleep(WORK).await;
        Ok(Response::new(GetSupplyResponse::default()))
    }

    async fn report_positions(
        &self,
        _: Request<Streaming<ReportPositionsRequest>>,
    ) -> Result<Response<ReportPositionsResponse>, Status> {
        Err(Status::unimplemented("not called here"))
    }

    async fn dispatch(
        &self,
        _: Request<DispatchRequest>,
    ) -> Result<Response<DispatchResponse>, Status> {
        Err(Status::unimplemented("not called here"))
    }

    async fn release(
        &self,
        _: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        Err(Status::unimplemented("not called here"))
    }
}
