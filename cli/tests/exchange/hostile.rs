//! Hostile requests: the edges refuse each of them as the caller's fault, nothing changes, and all
//! other callers get answers as before.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use city::Client;
use surge_proto::v1::{
    DispatchRequest, GetDemandRequest, GetQuoteRequest, GetSupplyRequest, Position,
    ReportPositionsRequest, demand_service_client::DemandServiceClient,
    quote_service_client::QuoteServiceClient, supply_service_client::SupplyServiceClient,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Status, transport::Channel};
use uuid::Uuid;

use crate::{
    api::{MODES, ModeInForce, downtown, grand_central},
    support::{Exchange, Market, Outcome, eventually},
};

/// Every refusal ends within this time, also that of a body which never arrives.
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_change_nothing() -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    exchange.api.goes_online(grand_central()).await?;
    eventually("the driver is counted", async || {
        let seen = Seen::of(&exchange).await?;
        ensure!(seen.idle_drivers == 1, "{seen:?}");
        Ok(())
    })
    .await?;
    let before = Seen::of(&exchange).await?;

    bodies_are_refused(&exchange).await?;
    requests_are_refused(&exchange).await?;
    rpcs_are_refused(&exchange).await?;
    half_requests_block_no_caller(&exchange).await?;

    let after = Seen::of(&exchange).await?;
    ensure!(before == after, "{before:?}, then {after:?}");
    for mode in MODES {
        let quote = exchange.api.quote(downtown(), mode).await?;
        ensure!(quote.dataflow == mode);
    }
    exchange.close().await
}

/// The state that a refused request must not change.
#[derive(Debug, PartialEq)]
struct Seen {
    idle_drivers: u64,
    rides_requested: String,
    mode: ModeInForce,
}

impl Seen {
    async fn of(exchange: &Exchange) -> anyhow::Result<Self> {
        let zone = marketplace::Zone::at(grand_central());
        let metrics = format!("{}/metrics", exchange.stack.target().ride);
        let exposed = Client::new(REFUSAL_LIMIT).get(&metrics).await?;
        let exposed = String::from_utf8_lossy(&exposed.body).into_owned();
        let requested = |line: &&str| line.starts_with("surge_rides_total{state=\"requested\"}");
        let requested = exposed.lines().find(requested);
        Ok(Self {
            idle_drivers: exchange.api.supply(zone).await?.idle_drivers,
            rides_requested: requested.context("rides are counted")?.to_owned(),
            mode: exchange.api.mode().await?,
        })
    }
}

/// Bodies for each route that reads one, all as JSON of the right length.
async fn bodies_are_refused(exchange: &Exchange) -> Outcome {
    let [driver, ride, price] = only(&exchange.stack.ports().http);
    let driver_path = format!("/v1/drivers/{}", Uuid::now_v7());
    let routes = [
        (price, "POST", "/v1/quotes", "pickup"),
        (price, "PUT", "/v1/dataflow", "mode"),
        (ride, "POST", "/v1/rides", "pickup"),
        (driver, "PUT", driver_path.as_str(), "position"),
        (driver, "POST", "/v1/positions", "positions"),
    ];
    for (port, method, path, field) in routes {
        for (name, body) in hostile_bodies(field) {
            let expected = if body.len() > 64 * 1024 { 413 } else { 400 };
            let answer = send(port, &request(method, path, &body)).await;
            answer
                .and_then(|answer| answer.is_problem(expected))
                .with_context(|| format!("{method} {path}: {name}"))?;
        }
    }
    Ok(())
}

fn hostile_bodies(field: &str) -> Vec<(&'static str, Vec<u8>)> {
    let place = |lat: &str| format!(r#"{{"{field}":{{"lat":{lat},"lon":-73.9}}}}"#).into_bytes();
    let twice = format!(r#"{{"{field}":{{"lat":1,"lat":2,"lon":3}},"{field}":7}}"#);
    let mut invalid_utf8 = place("1");
    invalid_utf8.splice(2..3, [0xff, 0xfe]);
    vec![
        ("nothing", Vec::new()),
        ("a number", b"7".to_vec()),
        ("null", b"null".to_vec()),
        ("an empty object", b"{}".to_vec()),
        ("cut off", place("40.7")[..9].to_vec()),
        ("NaN", place("NaN")),
        ("Infinity", place("-Infinity")),
        ("out of the range of numbers", place("1e999")),
        ("off the globe", place("1e300")),
        ("a word for a number", place("\"far\"")),
        ("twice the same key", twice.into_bytes()),
        ("no UTF-8", invalid_utf8),
        ("a zero byte", b"{\"\0\":1}".to_vec()),
        (
            "30,000 arrays in one another",
            [b"[".repeat(30_000), b"]".repeat(30_000)].concat(),
        ),
        ("30,000 arrays without an end", b"[".repeat(30_000)),
        ("5,000 objects in one another", br#"{"a":"#.repeat(5_000)),
        ("too much", b" ".repeat(65 * 1024)),
    ]
}

/// Requests with a wrong head or framing. An edge refuses some before it has a request to answer
/// with a problem.
async fn requests_are_refused(exchange: &Exchange) -> Outcome {
    let [.., price] = only(&exchange.stack.ports().http);
    let post = |headers: &str, body: &str| {
        format!(
            "POST /v1/quotes HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             {headers}\r\n\r\n{body}"
        )
    };
    let trip = serde_json::to_string(&downtown())?;
    let length = format!("content-length: {}", trip.len());
    let cases = [
        (
            "an unknown path",
            "GET /v1/taxis HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
            404,
        ),
        (
            "a path out of the root",
            "GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
            404,
        ),
        (
            "a wrong method",
            "DELETE /v1/quotes HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
            405,
        ),
        (
            "an invented method",
            "BREW /v1/quotes HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
            405,
        ),
        (
            "no method",
            "p@st /v1/quotes HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
            400,
        ),
        (
            "an id that is none",
            "GET /v1/quotes/%00/journey HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
            400,
        ),
        (
            "an unknown dataflow",
            post(&format!("{length}\r\nsurge-dataflow: kafka"), &trip),
            400,
        ),
        ("a length below zero", post("content-length: -1", "{"), 400),
        (
            "two lengths",
            post("content-length: 1\r\ncontent-length: 2", "{}"),
            400,
        ),
        (
            "a length that is announced",
            post("content-length: 99999999999", "{"),
            400,
        ),
        (
            "a chunk that is none",
            post("transfer-encoding: chunked", "zz\r\n\r\n"),
            400,
        ),
        (
            "a body that does not come",
            post("content-length: 50", "{"),
            400,
        ),
        ("another type of body", trip_as("text/plain", &trip), 415),
        (
            "a thousand headers",
            post(&"h: 1\r\n".repeat(1_000), ""),
            431,
        ),
        (
            "a header of a megabyte",
            post(&format!("h: {}", "a".repeat(1 << 20)), ""),
            431,
        ),
        (
            "an endless address",
            format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)),
            414,
        ),
        (
            "no HTTP at all",
            "\u{16}\u{3}\u{1}\0\u{1}\0\0\0\0\0\0\0\0".to_owned(),
            400,
        ),
    ];
    for (name, request, expected) in cases {
        let answer = send(price, request.as_bytes()).await.context(name)?;
        ensure!(answer.status == expected, "{name}: {answer:?}");
    }
    Ok(())
}

fn trip_as(content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/quotes HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// Calls that the three gRPC services must refuse.
async fn rpcs_are_refused(exchange: &Exchange) -> Outcome {
    let [driver, ride, price] = only(&exchange.stack.ports().grpc);
    let mut supply = SupplyServiceClient::new(channel(driver).await?);
    let mut demand = DemandServiceClient::new(channel(ride).await?);
    let mut quotes = QuoteServiceClient::new(channel(price).await?);
    let nowhere = |lat| Some(Position { lat, lon: -73.9 });
    for zones in hostile_zones() {
        let name = format!("{} zones, the first {:?}", zones.len(), zones[0].get(..20));
        let request = GetSupplyRequest {
            zones: zones.clone(),
        };
        is_invalid(supply.get_supply(request).await).context(name.clone())?;
        is_invalid(demand.get_demand(GetDemandRequest { zones }).await).context(name)?;
    }
    for lat in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, 90.001] {
        let request = GetQuoteRequest {
            pickup: nowhere(lat),
            dropoff: nowhere(40.7),
            dataflow: 0,
        };
        is_invalid(quotes.get_quote(request).await)?;
        let request = DispatchRequest {
            ride_id: Uuid::now_v7().to_string(),
            pickup: nowhere(lat),
            dropoff: nowhere(40.7),
        };
        is_invalid(supply.dispatch(request).await)?;
        let report = ReportPositionsRequest {
            driver_id: Uuid::now_v7().to_string(),
            position: nowhere(lat),
        };
        is_invalid(
            supply
                .report_positions(futures::stream::iter([report]))
                .await,
        )?;
    }
    let oversized = GetSupplyRequest {
        zones: vec!["8".repeat(5 << 20)],
    };
    // tonic's status for a message that is longer than the services accept.
    let refused = supply.get_supply(oversized).await.err();
    let code = refused.as_ref().map(Status::code);
    ensure!(code == Some(Code::OutOfRange), "{refused:?}");
    Ok(())
}

fn hostile_zones() -> Vec<Vec<String>> {
    let zone = marketplace::Zone::at(grand_central()).to_string();
    let words = [
        "",
        "manhattan",
        "872a100d6fffff",
        "ffffffffffffffff",
        "\0",
        "872A100D6FFFFFF'; --",
        "🚕",
    ];
    let mut zones: Vec<Vec<String>> = words.map(|word| vec![word.to_owned()]).into();
    zones.push(vec!["8".repeat(60_000)]);
    zones.push(vec![zone, "nowhere".to_owned()]);
    zones
}

fn is_invalid<T: std::fmt::Debug>(answer: Result<T, Status>) -> Outcome {
    let refused = answer.err().context("it was not refused")?;
    ensure!(refused.code() == Code::InvalidArgument, "{refused:?}");
    ensure!(!refused.message().is_empty(), "{refused:?}");
    Ok(())
}

async fn channel(port: u16) -> anyhow::Result<Channel> {
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{port}"))?;
    Ok(endpoint.timeout(REFUSAL_LIMIT).connect().await?)
}

/// The ports of the three services, each of which has one replica here.
fn only(ports: &[Vec<u16>; 3]) -> [u16; 3] {
    ports.each_ref().map(|replicas| replicas[0])
}

/// Connections with half a request. The tests of the edge check how long each may stay open.
async fn half_requests_block_no_caller(exchange: &Exchange) -> Outcome {
    const MANY: usize = 300;
    let target = exchange.stack.ports();
    let mut open = Vec::new();
    for port in only(&target.http).into_iter().chain(only(&target.grpc)) {
        for _ in 0..MANY / 6 {
            let mut half = TcpStream::connect(("127.0.0.1", port)).await?;
            half.write_all(b"PRI * GET /livez HTTP/1.1\r\nhost: ")
                .await
                .ok();
            open.push(half);
        }
    }
    for mode in MODES {
        exchange.api.quote(downtown(), mode).await?;
    }
    Ok(())
}

/// The part of an answer that arrived.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn is_problem(&self, status: u16) -> Outcome {
        ensure!(self.status == status, "{self:?}");
        ensure!(self.head.contains("application/problem+json"), "{self:?}");
        let problem: serde_json::Value = serde_json::from_str(&self.body)?;
        ensure!(problem["detail"].as_str().is_some_and(|it| !it.is_empty()));
        Ok(())
    }
}

fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Sends bytes to a port and reads the answer; no HTTP library would send them.
async fn send(port: u16, bytes: &[u8]) -> anyhow::Result<Answer> {
    let (mut reader, mut writer) = TcpStream::connect(("127.0.0.1", port)).await?.into_split();
    let exchange = async {
        // An edge may refuse and close before it has read everything; then the write fails.
        let ((), answer) = tokio::join!(
            async { drop(writer.write_all(bytes).await) },
            answer_from(&mut reader)
        );
        answer
    };
    let answer = timeout(REFUSAL_LIMIT, exchange).await;
    let text = answer.context("no answer in time")?;
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    Ok(Answer {
        status: status.with_context(|| format!("no status: {head:?}"))?,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// Reads until there is a head and as much of a body as it announces, or until the connection ends.
async fn answer_from(reader: &mut (impl AsyncRead + Unpin)) -> String {
    let (mut answer, mut part) = (Vec::new(), [0; 4_096]);
    loop {
        let text = String::from_utf8_lossy(&answer);
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let mut lengths = head
                .lines()
                .filter_map(|line| line.strip_prefix("content-length: "));
            let length = lengths.next().and_then(|length| length.parse().ok());
            body.len() >= length.unwrap_or(usize::MAX)
        });
        let text = text.into_owned();
        if whole {
            return text;
        }
        match reader.read(&mut part).await {
            Ok(read @ 1..) => answer.extend_from_slice(&part[..read]),
            _ => return text,
        }
    }
}
