//! A price-optimization for tests: speaks just enough HTTP/1.1 to answer quotes, rightly or in a chosen wrong way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use marketplace::{Position, Zone};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// Where all test trips start.
pub fn pickup() -> Position {
    Position::new(40.7527, -73.9772).expect("a place in Manhattan")
}

/// A sound quote for a trip from [`pickup`].
pub fn quote_body(mode: &str) -> Value {
    json!({
        "quote_id": "01939b3c-0000-7000-8000-000000000001", "fare_cents": 1817, "currency": "USD",
        "surge_multiplier": 1.3, "zone": Zone::at(pickup()), "dataflow": mode, "epoch": 1,
        "supply": 5.0, "demand": 7.5, "data_age_ms": 250.0, "degraded": false,
        "expires_at": "2014-04-04T21:22:00.000Z", "token": "t"
    })
}

/// How the stand-in answers quotes.
#[derive(Clone, Copy, Default)]
pub struct Behaviour {
    /// Answers nothing during this span after the first quote.
    pub stall: Option<(Duration, Duration)>,
    /// Writes this mode into every quote instead of the one asked for.
    pub always: Option<&'static str>,
    /// Answers every so many quotes with 503.
    pub unavailable_every: Option<u64>,
}

/// Starts the stand-in on a free port and returns its base URL; it ends with the test's runtime.
pub async fn price_optimization(behaviour: Behaviour) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("a bound address"));
    let stand_in = Arc::new(StandIn {
        behaviour,
        opened: Instant::now(),
        quotes: AtomicU64::new(0),
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stand_in = stand_in.clone();
            tokio::spawn(async move { stand_in.serve(stream).await });
        }
    });
    url
}

struct StandIn {
    behaviour: Behaviour,
    opened: Instant,
    quotes: AtomicU64,
}

impl StandIn {
    /// Answers one request after the other until the client leaves.
    async fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let (path, mode) = read_request(&mut stream).await?;
            let (status, body) = self.answer(&path, &mode).await;
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let answer = head + &body;
            stream.write_all(answer.as_bytes()).await.ok()?;
        }
    }

    async fn answer(&self, path: &str, mode: &str) -> (&'static str, String) {
        if path != "/v1/quotes" {
            return ("200 OK", "{}".to_owned());
        }
        if let Some((from, until)) = self.behaviour.stall
            && (from..until).contains(&self.opened.elapsed())
        {
            tokio::time::sleep_until(self.opened + until).await;
        }
        let number = self.quotes.fetch_add(1, Ordering::Relaxed) + 1;
        match self.behaviour.unavailable_every {
            Some(every) if number.is_multiple_of(every) => {
                ("503 Service Unavailable", "{}".to_owned())
            }
            _ => (
                "200 OK",
                quote_body(self.behaviour.always.unwrap_or(mode)).to_string(),
            ),
        }
    }
}

/// The path and the mode asked for; `None` when the client has left.
async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<(String, String)> {
    let (mut path, mut mode, mut length) = (String::new(), String::new(), 0);
    loop {
        let mut connection = String::new();
        if stream.read_line(&mut connection).await.ok()? == 0 {
            return None;
        }
        let connection = connection.trim_end();
        if connection.is_empty() {
            break;
        }
        match connection.split_once(": ") {
            None => path = connection.split(' ').nth(1)?.to_owned(),
            Some((name, value)) if name.eq_ignore_ascii_case("surge-dataflow") => {
                value.clone_into(&mut mode);
            }
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().ok()?;
            }
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((path, mode))
}
