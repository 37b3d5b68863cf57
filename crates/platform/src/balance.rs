//! Client-side load balancing of gRPC. HTTP/2 keeps one connection for everything, so a caller that connects to a name of
//! many replicas stays with one of them for good, and whatever stands in between balances connections, not calls. So the
//! caller looks the name up itself, again and again, holds a connection to each address, and chooses one for each call.
//!
//! tonic's own `Channel::balance_channel` does not serve: to it every connection is equally loaded, and one that cannot be
//! made counts as ready and fails its share of the calls. Here a call goes to the less busy of two random replicas, one
//! that failed rests, and a call that never left is made elsewhere. A callee with one fixed address has none of this.

use std::{
    error::Error,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt, TryFutureExt,
    future::{BoxFuture, Either, ErrInto},
};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout, timeout_at},
};
use tonic::{
    Code, Status,
    body::Body,
    transport::{Endpoint, channel},
};
use tower::{Service, ServiceExt};
use tracing::{Span, debug, info, warn};

use crate::{
    grpc::{CONNECT_DEADLINE, is_silence},
    shard_channel::ShardChannel,
};

/// How often names are looked up.
const LOOK_UP_EVERY: Duration = Duration::from_secs(5);

/// How often while a name has no address, and the least time between two look-ups that failing calls ask for.
const LOOK_UP_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long a look-up may take.
const LOOK_UP_DEADLINE: Duration = Duration::from_secs(4);

/// How long a replica rests after it failed; twice as long after each trial that fails.
const LEAST_REST: Duration = Duration::from_millis(250);

/// How long at most, and so how soon one that came back is used again.
const MOST_REST: Duration = Duration::from_secs(8);

/// How many replicas a call is tried at, if it did not get as far as leaving.
const MOST_ATTEMPTS: usize = 3;

type BoxError = Box<dyn Error + Send + Sync>;

/// What a channel is used for, which decides what may be done about a call whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// They change nothing: such a call is made once more, at another replica.
    Read,
    /// They change something: the caller has to decide.
    Act,
}

/// A setting that should name a gRPC service, and does not.
#[derive(Debug, thiserror::Error)]
#[error(
    "{url:?} is no URL of a gRPC service, such as http://driver-management:7201; several are separated by commas"
)]
pub struct UrlError {
    url: String,
}

/// Addresses of a host and port, as of now.
pub type LookUp =
    Arc<dyn Fn(&Host) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A name, or an address.
    pub name: String,
    /// Where its replicas listen.
    pub port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// Asks the system's resolver.
pub fn system() -> LookUp {
    Arc::new(|host| {
        let Host { name, port } = host.clone();
        async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) }.boxed()
    })
}

/// How a callee is found and called.
#[derive(Clone)]
pub struct Settings {
    /// End of every call, however many replicas are tried.
    pub deadline: Duration,
    /// What the calls are.
    pub calls: Calls,
    /// How names are looked up.
    pub look_up: LookUp,
    /// How often; give or take a fifth, so that callers that were started together do not ask together.
    pub look_up_every: Duration,
}

impl Settings {
    /// The usual: names are looked up every few seconds, by the system.
    pub fn new(deadline: Duration, calls: Calls) -> Self {
        Self {
            deadline,
            calls,
            look_up: system(),
            look_up_every: LOOK_UP_EVERY,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("deadline", &self.deadline)
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

/// A channel to one callee or to its replicas, for unary calls: a request is held until it is answered.
#[derive(Clone, Debug)]
pub struct BalancedChannel(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// One address that never changes: a channel and nothing else, because its cost is that of every quote.
    Fixed(ShardChannel),
    Replicas(Arc<Pool>),
}

impl BalancedChannel {
    /// Opens a channel to `urls`, one or several with commas between, when the first call needs it.
    ///
    /// # Errors
    /// When one of them is no URL of a gRPC service.
    pub fn open(urls: &str, settings: Settings) -> Result<Self, UrlError> {
        let targets = urls.split(',').map(str::trim).map(Target::parse);
        let targets: Vec<Target> = targets.collect::<Result<_, _>>()?;
        Ok(Self(match &targets[..] {
            [only] if only.is_fixed() => {
                let endpoint = Endpoint::from(only.url.clone());
                Kind::Fixed(ShardChannel::to(bounded(endpoint, settings.deadline)))
            }
            _ => Kind::Replicas(Pool::open(targets, settings)),
        }))
    }
}

impl Service<Request<Body>> for BalancedChannel {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Either<
        ErrInto<channel::ResponseFuture, BoxError>,
        BoxFuture<'static, Result<Response<Body>, BoxError>>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.0 {
            Kind::Fixed(channel) => channel.poll_ready(context).map_err(Into::into),
            Kind::Replicas(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match &mut self.0 {
            Kind::Fixed(channel) => Either::Left(channel.call(request).err_into()),
            Kind::Replicas(pool) => Either::Right(Arc::clone(pool).call(request).boxed()),
        }
    }
}

/// Connecting may take half of the deadline: a host that cannot be reached fails as away, before the deadline of the call
/// makes it look slow.
fn bounded(endpoint: Endpoint, deadline: Duration) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_DEADLINE.min(deadline / 2))
        .timeout(deadline)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
}

/// One URL of a setting.
#[derive(Clone, Debug)]
struct Target {
    url: Uri,
    host: Host,
}

impl Target {
    fn parse(url: &str) -> Result<Self, UrlError> {
        let wrong = || UrlError {
            url: url.to_owned(),
        };
        let url: Uri = url.parse().map_err(|_| wrong())?;
        let name = url.host().filter(|_| url.scheme_str() == Some("http"));
        let host = Host {
            // Addresses of IPv6 stand in brackets.
            name: name.ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned(),
            port: url.port_u16().unwrap_or(80),
        };
        Ok(Self { url, host })
    }

    fn is_fixed(&self) -> bool {
        self.host.name.parse::<IpAddr>().is_ok()
    }
}

type Replicas = Arc<[Arc<Replica>]>;

/// The replicas of a callee, as of the last look-up.
#[derive(Debug)]
struct Pool {
    settings: Settings,
    opened: Instant,
    /// `None` until names have been looked up once.
    known: watch::Receiver<Option<Replicas>>,
    /// Told when a replica cannot be reached: perhaps there are others by now.
    stale: Arc<Notify>,
}

impl Pool {
    fn open(targets: Vec<Target>, settings: Settings) -> Arc<Self> {
        let (tell, known) = watch::channel(None);
        let stale = Arc::new(Notify::new());
        let names = Names {
            targets,
            settings: settings.clone(),
            tell,
            stale: Arc::clone(&stale),
        };
        tokio::spawn(names.run());
        Arc::new(Self {
            settings,
            opened: Instant::now(),
            known,
            stale,
        })
    }

    async fn call(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let replicas = self.replicas().await;
        match &replicas[..] {
            [] => Err(unknown().into()),
            // Nowhere else to go, so nothing has to be kept for it.
            [only] => {
                let answer = only.call(request).await;
                self.note(only, Outcome::of(&answer));
                answer
            }
            _ => self.call_one_of(&replicas, request).await,
        }
    }

    /// Those that are known; the very first calls wait for the first look-up.
    async fn replicas(&self) -> Replicas {
        if let Some(replicas) = &*self.known.borrow() {
            return Arc::clone(replicas);
        }
        let mut known = self.known.clone();
        let first = known.wait_for(Option::is_some);
        match timeout(self.settings.deadline / 2, first).await {
            Ok(Ok(replicas)) => replicas.clone().unwrap_or_default(),
            _ => Replicas::default(),
        }
    }

    async fn call_one_of(
        &self,
        replicas: &[Arc<Replica>],
        request: Request<Body>,
    ) -> Result<Response<Body>, BoxError> {
        let deadline = Instant::now() + self.settings.deadline;
        let message = Message::of(request).await?;
        let mut tried = Vec::new();
        let mut failure = None;
        while let Some(replica) = self.choose(replicas, &tried) {
            let attempt = timeout_at(deadline, replica.call(message.request()));
            // Whoever could not be reached before tells more than that the time is over.
            let Ok(answer) = attempt.await else {
                self.note(replica, Outcome::Silent);
                return failure.unwrap_or_else(|| Err(overdue(self.settings.deadline).into()));
            };
            let outcome = Outcome::of(&answer);
            self.note(replica, outcome);
            if !self.goes_elsewhere(outcome, tried.len() + 1) {
                return answer;
            }
            tried.push(replica.address);
            failure = Some(answer);
        }
        failure.unwrap_or_else(|| Err(unknown().into()))
    }

    /// Whether a call that ended so is made once more. One whose answer was lost may have been carried out.
    fn goes_elsewhere(&self, outcome: Outcome, attempts: usize) -> bool {
        match outcome {
            Outcome::NeverLeft => attempts < MOST_ATTEMPTS,
            Outcome::Lost => self.settings.calls == Calls::Read && attempts < 2,
            Outcome::Answered | Outcome::Silent => false,
        }
    }

    /// The less busy of two random ones; of those that rest only if there are no others.
    fn choose<'a>(&self, all: &'a [Arc<Replica>], tried: &[SocketAddr]) -> Option<&'a Replica> {
        let now = self.now_ms();
        let new = || all.iter().filter(|one| !tried.contains(&one.address));
        let awake = less_busy(new().filter(|one| !one.rests(now)));
        let chosen = awake.or_else(|| less_busy(new()))?;
        chosen.begin_trial(now);
        Some(chosen)
    }

    fn note(&self, replica: &Replica, outcome: Outcome) {
        match outcome {
            Outcome::Answered => replica.is_well(),
            Outcome::NeverLeft | Outcome::Lost | Outcome::Silent => {
                replica.failed(self.now_ms(), outcome);
                self.stale.notify_one();
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The replica spoke, whatever it said.
    Answered,
    /// The call was not sent: no connection could be made, or it was closing.
    NeverLeft,
    /// The connection broke, or the replica said that it cannot serve.
    Lost,
    /// Nothing came in time.
    Silent,
}

impl Outcome {
    fn of(answer: &Result<Response<Body>, BoxError>) -> Self {
        match answer {
            Ok(response) if is_unavailable(response) => Self::Lost,
            Ok(_) => Self::Answered,
            Err(error) => Self::of_failure(&**error),
        }
    }

    fn of_failure(error: &(dyn Error + 'static)) -> Self {
        let mut causes = std::iter::successors(Some(error), |&cause| cause.source());
        let silent = causes.clone().any(is_silence);
        if causes.any(never_left) {
            Self::NeverLeft
        } else if silent {
            Self::Silent
        } else {
            Self::Lost
        }
    }
}

fn never_left(cause: &(dyn Error + 'static)) -> bool {
    // hyper cancels only what it has not begun to send.
    let unsent = |cause: &hyper::Error| cause.is_canceled();
    cause.is::<tonic::ConnectError>() || cause.downcast_ref().is_some_and(unsent)
}

fn is_unavailable(response: &Response<Body>) -> bool {
    let status = response.headers().get("grpc-status");
    status.is_some_and(|code| Code::from_bytes(code.as_bytes()) == Code::Unavailable)
}

fn unknown() -> Status {
    Status::unavailable("no address of it is known")
}

fn overdue(deadline: Duration) -> Status {
    Status::deadline_exceeded(format!("not done within {deadline:?}"))
}

/// A request that can be made several times.
struct Message {
    parts: http::request::Parts,
    body: Bytes,
}

impl Message {
    async fn of(request: Request<Body>) -> Result<Self, Status> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Self { parts, body })
    }

    fn request(&self) -> Request<Body> {
        let body = Body::new(Full::new(self.body.clone()));
        Request::from_parts(self.parts.clone(), body)
    }
}

/// One address of the callee.
#[derive(Debug)]
struct Replica {
    address: SocketAddr,
    /// What it is an address of.
    host: Host,
    channel: ShardChannel,
    in_flight: AtomicUsize,
    /// Rests in a row.
    failures: AtomicU32,
    /// Since the pool was opened.
    rests_until_ms: AtomicU64,
}

impl Replica {
    fn new(address: SocketAddr, target: &Target, deadline: Duration) -> Self {
        let url = Uri::builder()
            .scheme("http")
            .authority(address.to_string())
            .path_and_query("/")
            .build()
            .expect("a socket address is an authority");
        // The callee still learns by which name it was called.
        let endpoint = Endpoint::from(url).origin(target.url.clone());
        Self {
            address,
            host: target.host.clone(),
            channel: ShardChannel::to(bounded(endpoint, deadline)),
            in_flight: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            rests_until_ms: AtomicU64::new(0),
        }
    }

    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let _one_more = InFlight::begin(&self.in_flight);
        let span = Span::current();
        if !span.is_disabled() {
            span.record("server.address", &*self.host.name);
            span.record("server.port", self.address.port());
            span.record("network.peer.address", self.address.ip().to_string());
        }
        let answer = self.channel.clone().oneshot(request).await;
        answer.map_err(Into::into)
    }

    fn rests(&self, now_ms: u64) -> bool {
        now_ms < self.rests_until_ms.load(Relaxed)
    }

    /// After a rest one call finds out how the replica is; the others wait for what comes of it.
    fn begin_trial(&self, now_ms: u64) {
        if self.failures.load(Relaxed) > 0 && !self.rests(now_ms) {
            self.rest(now_ms);
        }
    }

    /// All calls that were in flight when it failed fail together: they are one failure.
    fn failed(&self, now_ms: u64, outcome: Outcome) {
        if !self.rests(now_ms) && self.rest(now_ms) == 0 {
            warn!(server.address = %self.address, "{} rests: {outcome:?}", self.address);
        }
    }

    /// Returns how often it did before, in a row.
    fn rest(&self, now_ms: u64) -> u32 {
        let before = self.failures.fetch_add(1, Relaxed);
        let until_ms = now_ms + rest_after(before).as_millis() as u64;
        self.rests_until_ms.store(until_ms, Relaxed);
        before
    }

    fn is_well(&self) {
        // Read before it is written: every call ends here, on every processor.
        if self.failures.load(Relaxed) > 0 && self.failures.swap(0, Relaxed) > 0 {
            self.rests_until_ms.store(0, Relaxed);
            info!(server.address = %self.address, "{} answers again", self.address);
        }
    }
}

/// How long a replica rests that has rested `before` times in a row.
fn rest_after(before: u32) -> Duration {
    (LEAST_REST * (1 << before.min(8))).min(MOST_REST)
}

fn less_busy<'a>(replicas: impl Iterator<Item = &'a Arc<Replica>> + Clone) -> Option<&'a Replica> {
    let count = replicas.clone().count();
    if count == 0 {
        return None;
    }
    let first = rand::random_range(0..count);
    // Another one, unless there is none.
    let second = (first + rand::random_range(1..count.max(2))) % count;
    let nth = |index| replicas.clone().nth(index).map(|replica| &**replica);
    let load = |replica: &&Replica| replica.in_flight.load(Relaxed);
    [nth(first), nth(second)]
        .into_iter()
        .flatten()
        .min_by_key(load)
}

/// Counts a call while it lasts, however it ends.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Looks the names of a callee up, for as long as somebody has a channel to it.
struct Names {
    targets: Vec<Target>,
    settings: Settings,
    tell: watch::Sender<Option<Replicas>>,
    stale: Arc<Notify>,
}

impl Names {
    async fn run(self) {
        loop {
            self.step().await;
            tokio::select! {
                () = self.pause() => {}
                () = self.tell.closed() => return,
            }
        }
    }

    /// Looks all names up and tells what came out, keeping the connections to those that stay.
    async fn step(&self) {
        let known = self.tell.borrow().clone();
        let before = known.as_deref().unwrap_or_default();
        let mut found: Vec<Arc<Replica>> = Vec::new();
        for target in &self.targets {
            let mut replicas = self.replicas_of(target, before).await;
            replicas.retain(|one| !found.iter().any(|other| other.address == one.address));
            found.append(&mut replicas);
        }
        let stays = |one: &&Arc<Replica>| found.iter().any(|other| Arc::ptr_eq(one, other));
        let stay = before.iter().filter(stays).count();
        let (gone, new) = (before.len() - stay, found.len() - stay);
        if gone + new > 0 || known.is_none() {
            let (host, count) = (self.hosts(), found.len());
            info!("{host} has {count} addresses now: {new} new ones, {gone} are gone");
            self.tell.send_replace(Some(found.into()));
        }
    }

    /// A resolver that fails is no reason to leave replicas that answer.
    async fn replicas_of(&self, target: &Target, before: &[Arc<Replica>]) -> Vec<Arc<Replica>> {
        let known = || before.iter().filter(|one| one.host == target.host);
        let addresses = match self.look_up(&target.host).await {
            Ok(addresses) if !addresses.is_empty() => addresses,
            Ok(_) => return known().cloned().collect(),
            Err(error) => {
                debug!(error.message = %error, "{} cannot be looked up: {error}", target.host);
                return known().cloned().collect();
            }
        };
        let replica = |address| match known().find(|one| one.address == address) {
            Some(replica) => Arc::clone(replica),
            None => Arc::new(Replica::new(address, target, self.settings.deadline)),
        };
        addresses.into_iter().map(replica).collect()
    }

    async fn look_up(&self, host: &Host) -> io::Result<Vec<SocketAddr>> {
        let answer = (self.settings.look_up)(host);
        match timeout(LOOK_UP_DEADLINE, answer).await {
            Ok(addresses) => addresses,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn pause(&self) {
        let nobody = self
            .tell
            .borrow()
            .as_ref()
            .is_none_or(|known| known.is_empty());
        let period = if nobody {
            LOOK_UP_AGAIN_AFTER
        } else {
            self.settings.look_up_every
        };
        let least = LOOK_UP_AGAIN_AFTER.min(period);
        tokio::time::sleep(least).await;
        let rest = period
            .mul_f64(rand::random_range(0.8..1.2))
            .saturating_sub(least);
        let _ = timeout(rest, self.stale.notified()).await;
    }

    fn hosts(&self) -> String {
        let hosts: Vec<String> = self
            .targets
            .iter()
            .map(|one| one.host.to_string())
            .collect();
        hosts.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(urls: &str) -> Result<BalancedChannel, UrlError> {
        BalancedChannel::open(urls, Settings::new(Duration::from_secs(1), Calls::Read))
    }

    #[tokio::test]
    async fn one_address_is_called_without_a_detour() {
        for fixed in ["http://127.0.0.1:7201", "http://[::1]:7201"] {
            assert!(matches!(open(fixed).unwrap().0, Kind::Fixed(_)), "{fixed}");
        }
        for many in [
            "http://localhost:7201",
            "http://127.0.0.1:1, http://127.0.0.1:2",
        ] {
            assert!(matches!(open(many).unwrap().0, Kind::Replicas(_)), "{many}");
        }
    }

    #[tokio::test]
    async fn what_is_no_url_is_told() {
        for wrong in [
            "",
            "not a url",
            "driver-management:7201",
            "https://a:1",
            "http://a:1,",
        ] {
            let refused = open(wrong).unwrap_err().to_string();
            assert!(
                refused.contains("is no URL of a gRPC service"),
                "{wrong}: {refused}"
            );
        }
    }

    #[test]
    fn rests_grow_and_are_bounded() {
        let rests: Vec<u128> = (0..8)
            .map(|before| rest_after(before).as_millis())
            .collect();
        assert_eq!(rests, [250, 500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000]);
        assert_eq!(rest_after(u32::MAX), MOST_REST);
    }
}
