//! The collector from outside: OTLP over gRPC in, Jaeger's JSON over HTTP out.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails where it unwraps, which is its purpose"
)]

mod support;

use http::StatusCode;
use opentelemetry_proto::tonic::{
    common::v1::{ArrayValue, KeyValue, any_value::Value},
    trace::v1::{Span, span::Event, span::SpanKind},
};
use serde_json::{Value as Json, json};
use support::*;
use trace_view::{Collector, Error, Limits};

/// One trace over three services: the rider's quote asks for supply, and a batch job follows from
/// it.
async fn suite_with_a_quote() -> Suite {
    let suite = Suite::start(Limits::default()).await;
    let quote = with(
        vec![
            text("surge.zone", "midtown"),
            attribute("http.status", Value::IntValue(200)),
        ],
        lasting(40, span(0xabc, 1, "POST /v1/quotes")),
    );
    let lookup = failed(
        "no such zone",
        child_of(1, lasting(5, span(0xabc, 2, "GetSupply"))),
    );
    let batch = linked_to(
        0xabc,
        1,
        lasting(
            900,
            starting(FRIDAY + 2_000 * MILLISECOND, span(0xdef, 3, "reprice")),
        ),
    );
    suite.export("pricing", vec![quote]).await;
    suite.export("drivers", vec![lookup]).await;
    suite
        .export(
            "batch",
            vec![Span {
                kind: SpanKind::Internal.into(),
                ..lasting(900, batch)
            }],
        )
        .await;
    suite
}

fn tag<'a>(tags: &'a Json, key: &str) -> &'a Json {
    tags.as_array()
        .unwrap()
        .iter()
        .find(|tag| tag["key"] == key)
        .unwrap_or(&Json::Null)
}

#[tokio::test]
async fn trace_has_the_form_of_jaeger() {
    let suite = suite_with_a_quote().await;
    let data = suite
        .data("/api/traces/00000000000000000000000000000abc")
        .await;
    let trace = &data[0];
    assert_eq!(trace["traceID"], "00000000000000000000000000000abc");
    assert_eq!(trace["warnings"], Json::Null);
    assert_eq!(trace["processes"]["p1"]["serviceName"], "pricing");
    assert_eq!(trace["processes"]["p2"]["serviceName"], "drivers");
    let version = json!({"key": "service.version", "type": "string", "value": "1"});
    assert_eq!(trace["processes"]["p1"]["tags"], json!([version]));

    let quote = &trace["spans"][0];
    assert_eq!(quote["operationName"], "POST /v1/quotes");
    assert_eq!(quote["processID"], "p1");
    assert_eq!(quote["startTime"], FRIDAY / 1_000);
    assert_eq!(quote["duration"], 40_000);
    assert_eq!(quote["references"], json!([]));
    assert_eq!(
        tag(&quote["tags"], "http.status"),
        &json!({"key": "http.status", "type": "int64", "value": 200})
    );
    assert_eq!(tag(&quote["tags"], "span.kind")["value"], "server");
    assert_eq!(tag(&quote["tags"], "error"), &Json::Null);

    let lookup = &trace["spans"][1];
    let parent =
        json!({"refType": "CHILD_OF", "traceID": trace["traceID"], "spanID": "0000000000000001"});
    assert_eq!(lookup["references"], json!([parent]));
    assert_eq!(
        tag(&lookup["tags"], "error"),
        &json!({"key": "error", "type": "bool", "value": true})
    );
    assert_eq!(tag(&lookup["tags"], "otel.status_code")["value"], "ERROR");
    assert_eq!(
        tag(&lookup["tags"], "otel.status_description")["value"],
        "no such zone"
    );
}

#[tokio::test]
async fn link_is_a_follows_from_reference() {
    let suite = suite_with_a_quote().await;
    let data = suite.data("/api/traces/def").await;
    let origin = json!({
        "refType": "FOLLOWS_FROM",
        "traceID": "00000000000000000000000000000abc",
        "spanID": "0000000000000001",
    });
    assert_eq!(data[0]["spans"][0]["references"], json!([origin]));
}

#[tokio::test]
async fn events_are_logs() {
    let suite = Suite::start(Limits::default()).await;
    let at = FRIDAY + MILLISECOND;
    let event = Event {
        time_unix_nano: at,
        name: "repriced".into(),
        attributes: vec![text("zone", "soho")],
        ..Event::default()
    };
    suite
        .export(
            "pricing",
            vec![Span {
                events: vec![event],
                ..span(1, 1, "quote")
            }],
        )
        .await;
    let data = suite.data("/api/traces/1").await;
    let fields = json!([
        {"key": "event", "type": "string", "value": "repriced"},
        {"key": "zone", "type": "string", "value": "soho"},
    ]);
    assert_eq!(
        data[0]["spans"][0]["logs"],
        json!([{"timestamp": at / 1_000, "fields": fields}])
    );
    assert_eq!(
        suite.found("tags=%7B%22zone%22%3A%22soho%22%7D").await,
        ["1"]
    );
}

#[tokio::test]
async fn id_without_leading_zeros_opens_trace() {
    let suite = suite_with_a_quote().await;
    for id in ["abc", "0abc", "ABC", "00000000000000000000000000000abc"] {
        let data = suite
            .data(&format!("/api/traces/{id}?raw=true&prettyPrint=true"))
            .await;
        assert_eq!(data[0]["spans"].as_array().unwrap().len(), 2, "{id}");
    }
}

#[tokio::test]
async fn unknown_trace_is_not_found() {
    let suite = suite_with_a_quote().await;
    let (status, json) = suite.json("/api/traces/123").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(json["data"], Json::Null);
    assert_eq!(
        json["errors"],
        json!([{"code": 404, "msg": "trace not found"}])
    );
}

#[tokio::test]
async fn several_ids_open_several_traces() {
    let suite = suite_with_a_quote().await;
    let (status, json) = suite
        .json("/api/traces?traceID=abc&traceID=def&traceID=123")
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(json["total"], 2);
    assert_eq!(
        json["errors"][0]["traceID"],
        "00000000000000000000000000000123"
    );
}

#[tokio::test]
async fn services_and_operations_include_inner_spans() {
    let suite = suite_with_a_quote().await;
    assert_eq!(
        suite.data("/api/services").await,
        json!(["batch", "drivers", "pricing"])
    );
    assert_eq!(
        suite.data("/api/services/drivers/operations").await,
        json!(["GetSupply"])
    );
    assert_eq!(
        suite.data("/api/services/nobody/operations").await,
        json!([])
    );
    let server = json!([{"name": "GetSupply", "spanKind": "server"}]);
    assert_eq!(
        suite
            .data("/api/operations?service=drivers&spanKind=server")
            .await,
        server
    );
    assert_eq!(suite.data("/api/operations?service=drivers").await, server);
    assert_eq!(
        suite
            .data("/api/operations?service=drivers&spanKind=client")
            .await,
        json!([])
    );
}

#[tokio::test]
async fn every_filter_of_search_form_works() {
    let suite = suite_with_a_quote().await;
    let (before, after) = (FRIDAY / 1_000 - 1, FRIDAY / 1_000 + 1);
    let expected: [(&str, &[&str]); 19] = [
        ("", &["def", "abc"]),
        ("limit=1", &["def"]),
        ("service=pricing", &["abc"]),
        ("service=drivers", &["abc"]),
        ("service=nobody", &[]),
        ("service=drivers&operation=GetSupply", &["abc"]),
        // One span must meet all conditions: the operation is another service's.
        ("service=pricing&operation=GetSupply", &[]),
        (
            "service=batch&operation=&tags=&minDuration=&maxDuration=",
            &["def"],
        ),
        ("minDuration=0.5s", &["def"]),
        ("minDuration=40ms&maxDuration=40000us", &["abc"]),
        ("service=pricing&maxDuration=39ms", &[]),
        ("tags=%7B%22error%22%3A%22true%22%7D", &["abc"]),
        ("service=pricing&tags=%7B%22error%22%3A%22true%22%7D", &[]),
        (
            "tags=%7B%22surge.zone%22%3A%22midtown%22%2C%22http.status%22%3A%22200%22%7D",
            &["abc"],
        ),
        ("tags=%7B%22surge.zone%22%3A%22soho%22%7D", &[]),
        (
            "tags=%7B%22service.version%22%3A%221%22%7D",
            &["def", "abc"],
        ),
        ("tags=%7B%22span.kind%22%3A%22internal%22%7D", &["def"]),
        ("lookback=1h", &[]),
        ("lookback=custom", &["def", "abc"]),
    ];
    for (query, traces) in expected {
        assert_eq!(suite.found(query).await, traces, "{query}");
    }
    assert_eq!(
        suite.found(&format!("start={before}&end={after}")).await,
        ["abc"]
    );
    assert_eq!(suite.found(&format!("start={after}")).await, ["def"]);
    assert_eq!(
        suite.found(&format!("end={after}&lookback=1h")).await,
        ["abc"]
    );
}

#[tokio::test]
async fn wrong_query_is_refused_by_name() {
    let suite = Suite::start(Limits::default()).await;
    let refused = [
        ("/api/traces?limit=many", "limit"),
        ("/api/traces?limit=1501", "limit"),
        ("/api/traces?start=x", "start"),
        ("/api/traces?minDuration=5", "minDuration"),
        ("/api/traces?tags=error", "tags"),
        ("/api/traces?traceID=xyz", "traceID"),
        ("/api/traces/xyz", "traceID"),
        ("/api/operations", "service"),
        ("/api/operations?service=a&spanKind=x", "spanKind"),
        ("/api/dependencies?endTs=x", "endTs"),
    ];
    for (path, parameter) in refused {
        let (status, json) = suite.json(path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(json["data"], Json::Null);
        assert_eq!(json["errors"][0]["code"], 400);
        let message = json["errors"][0]["msg"].as_str().unwrap();
        assert!(
            message.contains(&format!("'{parameter}'")),
            "{path}: {message}"
        );
    }
}

#[tokio::test]
async fn calls_count_over_parents_and_links() {
    let suite = suite_with_a_quote().await;
    let of_a_server = |key, server, trace| with(vec![text(key, server)], span(trace, 1, "any"));
    let select = of_a_server("db.system.name", "postgresql", 0xdb);
    suite.export("batch", vec![select]).await;
    let process = Span {
        kind: SpanKind::Consumer.into(),
        ..of_a_server("messaging.system", "nats", 0xb0)
    };
    suite.export("pricing", vec![process]).await;
    let end = FRIDAY / MILLISECOND + 60_000;
    let calls = json!([
        {"parent": "batch", "child": "postgresql", "callCount": 1},
        {"parent": "nats", "child": "pricing", "callCount": 1},
        {"parent": "pricing", "child": "batch", "callCount": 1},
        {"parent": "pricing", "child": "drivers", "callCount": 1},
    ]);
    assert_eq!(
        suite
            .data(&format!("/api/dependencies?endTs={end}&lookback=3600000"))
            .await,
        calls
    );
    assert_eq!(
        suite
            .data(&format!("/api/dependencies?endTs={end}&lookback=1000"))
            .await,
        json!([])
    );
    assert_eq!(
        suite.data("/api/dependencies").await,
        json!([]),
        "the Friday was more than a week ago"
    );
}

#[tokio::test]
async fn trace_without_root_is_found() {
    let suite = Suite::start(Limits::default()).await;
    suite
        .export("drivers", vec![child_of(99, span(7, 2, "GetSupply"))])
        .await;
    assert_eq!(suite.found("service=drivers").await, ["7"]);
    assert_eq!(suite.data("/api/services").await, json!(["drivers"]));
}

#[tokio::test]
async fn strange_spans_are_cut_and_kept() {
    let suite = Suite::start(Limits::default()).await;
    let nested = Value::ArrayValue(ArrayValue {
        values: vec![attribute("", Value::IntValue(1)).value.unwrap()],
    });
    let odd = with(
        vec![
            text("huge", &"é".repeat(1 << 20)),
            attribute("list", nested),
            attribute("bytes", Value::BytesValue(vec![1, 2])),
            attribute("ratio", Value::DoubleValue(f64::NAN)),
        ],
        Span {
            end_time_unix_nano: 1,
            kind: 77,
            ..child_of(1, span(1, 1, ""))
        },
    );
    let crowded = with(
        (0..1_000).map(|key| text(&key.to_string(), "")).collect(),
        span(1, 2, "crowded"),
    );
    let timeless = Span {
        start_time_unix_nano: 0,
        end_time_unix_nano: 0,
        ..span(1, 3, "timeless")
    };
    let latest = Span {
        start_time_unix_nano: u64::MAX,
        end_time_unix_nano: u64::MAX,
        ..span(1, 4, "latest")
    };
    let talkative = Span {
        events: vec![Event {
            attributes: vec![text("huge", &"é".repeat(1 << 16))],
            ..Event::default()
        }],
        ..span(1, 5, "talkative")
    };
    let spans = vec![odd, crowded, timeless, latest, talkative];
    suite.export("", spans).await;

    let data = suite.data("/api/traces/1").await;
    let spans = &data[0]["spans"];
    assert_eq!(data[0]["processes"]["p1"]["serviceName"], "unknown_service");
    assert_eq!(spans[0]["duration"], 0);
    assert_eq!(spans[0]["references"], json!([]), "its own parent");
    assert!(
        tag(&spans[0]["tags"], "huge")["value"]
            .as_str()
            .unwrap()
            .len()
            < 3_000
    );
    assert_eq!(tag(&spans[0]["tags"], "list")["value"], "[1]");
    assert_eq!(tag(&spans[0]["tags"], "bytes")["value"], "[1,2]");
    assert_eq!(tag(&spans[0]["tags"], "ratio")["value"], "NaN");
    assert!(spans[0]["warnings"].is_array());
    assert!(spans[1]["tags"].as_array().unwrap().len() < 100);
    assert!(spans[1]["warnings"].is_array());
    assert_eq!(spans[2]["warnings"], Json::Null, "nothing of it is missing");
    assert!(spans[4]["warnings"].is_array(), "an event of it was cut");
    assert!(
        spans[2]["startTime"].as_u64().unwrap() > FRIDAY / 1_000,
        "shown when it arrived"
    );
}

#[tokio::test]
async fn spans_without_ids_are_refused_and_counted() {
    let suite = Suite::start(Limits::default()).await;
    let no_trace = Span {
        trace_id: vec![],
        ..span(1, 1, "quote")
    };
    let no_id = Span {
        span_id: vec![0; 8],
        ..span(1, 1, "quote")
    };
    let answer = suite
        .export("pricing", vec![no_trace, no_id, span(1, 1, "quote")])
        .await;
    assert_eq!(answer.partial_success.unwrap().rejected_spans, 2);
    assert_eq!(suite.found("").await, ["1"]);
}

#[tokio::test]
async fn oversized_export_is_refused_alone() {
    let suite = Suite::start(Limits {
        message_bytes: 10_000,
        ..Limits::default()
    })
    .await;
    let oversized = with(vec![text("huge", &"x".repeat(20_000))], span(1, 1, "quote"));
    let refused = suite
        .try_export("pricing", vec![oversized])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    suite.export("pricing", vec![span(2, 1, "quote")]).await;
    assert_eq!(suite.found("").await, ["2"]);
}

#[tokio::test]
async fn undecodable_export_is_refused_alone() {
    let suite = Suite::start(Limits::default()).await;
    // Where a message is expected, this text announces eight bytes that never come.
    let refused = suite.export_garbage("A").await.unwrap_err();
    assert_eq!(
        refused.code(),
        tonic::Code::Internal,
        "tonic's status for what prost cannot decode: {refused}"
    );
    suite.export("pricing", vec![span(1, 1, "quote")]).await;
    assert_eq!(suite.found("").await, ["1"]);
}

#[tokio::test]
async fn sustained_load_keeps_the_newest_traces() {
    let limits = Limits {
        traces: 2_000,
        ..Limits::default()
    };
    let suite = Suite::start(limits).await;
    for batch in 0..80 {
        let traces = batch * 100 + 1..=batch * 100 + 100;
        let spans = traces.flat_map(|trace| {
            (1..=5).map(move |id| starting(FRIDAY + trace as u64, span(trace, id, "quote")))
        });
        suite.export("pricing", spans.collect()).await;
    }
    let newest: Vec<String> = (6_501..=8_000_u128)
        .rev()
        .map(|trace| format!("{trace:x}"))
        .collect();
    assert_eq!(suite.found("limit=1500").await, newest);
    let oldest_held = suite.data(&format!("/api/traces/{:x}", 6_001)).await;
    assert_eq!(oldest_held[0]["spans"].as_array().unwrap().len(), 5);
    let (status, _) = suite.json(&format!("/api/traces/{:x}", 6_000)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

/// With the default limits and spans as large as those of the services, the store holds all of
/// them, the search form finds them in every way, and the process stays within the promise of
/// [`Limits`].
#[tokio::test]
async fn finds_8000_requests_within_promised_memory() {
    const REQUESTS: u128 = 8_000;
    let suite = Suite::start(Limits::default()).await;
    let before = resident_bytes();
    let services = ["pricing", "drivers", "riders"];
    for first in (1..=REQUESTS).step_by(100) {
        for (service, ids) in services.iter().zip([1..=3, 4..=4, 5..=5_u64]) {
            let of_request = |trace: u128| {
                ids.clone().map(move |id| {
                    let span = with(ten_attributes(trace), span(trace, id, "POST /v1/quotes"));
                    starting(FRIDAY + trace as u64 * MILLISECOND, child_of(id - 1, span))
                })
            };
            let spans = (first..first + 100).flat_map(of_request);
            suite.export(service, spans.collect()).await;
        }
    }

    assert_eq!(
        suite.data("/api/services").await,
        json!(["drivers", "pricing", "riders"])
    );
    for trace in [1, REQUESTS / 2, REQUESTS] {
        let held = suite.data(&format!("/api/traces/{trace:x}")).await;
        assert_eq!(held[0]["spans"].as_array().unwrap().len(), 5, "of {trace}");
    }
    let of_drivers = "service=drivers&operation=POST%20/v1/quotes&limit=3";
    assert_eq!(suite.found(of_drivers).await, ["1f40", "1f3f", "1f3e"]);
    let by_tag = "service=riders&tags=%7B%22quote.id%22:%22quote-4711%22%7D";
    assert_eq!(suite.found(by_tag).await, ["1267"]);
    let calls = suite.data("/api/dependencies?endTs=1396649000000").await;
    assert_eq!(calls[0]["callCount"], json!(8_000));

    let grown = resident_bytes().saturating_sub(before);
    assert!(
        grown < 3 * Limits::default().bytes,
        "grown by {grown} bytes"
    );
}

fn ten_attributes(request: u128) -> Vec<KeyValue> {
    let mut attributes: Vec<_> = (1..10)
        .map(|number| text(&format!("attribute.{number}"), "a value of usual length"))
        .collect();
    attributes.push(text("quote.id", &format!("quote-{request}")));
    attributes
}

/// Resident memory of this process; 0 where the system does not report it.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4_096
}

#[tokio::test]
async fn parts_dropped_by_sender_are_marked() {
    let suite = Suite::start(Limits::default()).await;
    let capped = Span {
        dropped_links_count: 7,
        ..span(1, 1, "publish")
    };
    suite.export("drivers", vec![capped]).await;
    let data = suite.data("/api/traces/1").await;
    assert_eq!(
        data[0]["spans"][0]["warnings"],
        json!(["parts of this span were over a limit and are missing"])
    );
}

#[tokio::test]
async fn late_span_joins_its_trace() {
    let suite = Suite::start(Limits::default()).await;
    suite
        .export("drivers", vec![child_of(1, span(1, 2, "GetSupply"))])
        .await;
    for trace in 2..=100 {
        suite
            .export("drivers", vec![span(trace, 1, "GetSupply")])
            .await;
    }
    suite
        .export("pricing", vec![span(1, 1, "POST /v1/quotes")])
        .await;
    let data = suite.data("/api/traces/1").await;
    assert_eq!(data[0]["spans"].as_array().unwrap().len(), 2);
    assert_eq!(suite.found("service=pricing").await, ["1"]);
}

#[tokio::test]
async fn full_trace_reports_missing_spans() {
    let suite = Suite::start(Limits {
        spans_per_trace: 3,
        ..Limits::default()
    })
    .await;
    suite
        .export("pricing", (1..=5).map(|id| span(1, id, "quote")).collect())
        .await;
    let data = suite.data("/api/traces/1").await;
    assert_eq!(data[0]["spans"].as_array().unwrap().len(), 3);
    assert_eq!(
        data[0]["warnings"],
        json!(["only the first 3 spans are held, 2 came later"])
    );
}

#[tokio::test]
async fn pages_and_assets_of_ui_answer() {
    let suite = Suite::start(Limits::default()).await;
    for path in [
        "/",
        "/index.html",
        "/search",
        "/trace/abc",
        "/dependencies",
        "/monitor",
    ] {
        let (status, body) = suite.fetch("GET", path).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(body.contains("jaeger-ui-root"), "{path}");
        // The menu hides the page Monitor.
        assert!(
            body.contains(r#""monitor":{"menuEnabled":false}"#),
            "{path}"
        );
    }
    let (_, index) = suite.fetch("GET", "/").await;
    for link in index
        .split('"')
        .filter(|link| link.starts_with("./static/"))
    {
        let (status, _) = suite.fetch("GET", &link[1..]).await;
        assert_eq!(status, StatusCode::OK, "{link}");
    }
    let (status, _) = suite.fetch("GET", "/static/nothing.js").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn unsupported_routes_answer_in_the_envelope() {
    let suite = Suite::start(Limits::default()).await;
    let (status, json) = suite.json("/api/metrics/calls?service=pricing").await;
    assert_eq!(
        (status, &json["errors"][0]["code"]),
        (StatusCode::NOT_IMPLEMENTED, &json!(501))
    );
    let (status, _) = suite.fetch("POST", "/api/archive/abc").await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    let (status, json) = suite.json("/api/v3/services").await;
    assert_eq!(
        (status, &json["data"]),
        (StatusCode::NOT_FOUND, &Json::Null)
    );
}

#[tokio::test]
async fn collector_ends_on_shutdown() {
    let suite = suite_with_a_quote().await;
    let addresses = suite.addresses;
    suite.stop().await.unwrap();
    Collector::bind(addresses.ui, addresses.otlp, Limits::default())
        .await
        .expect("both ports are free again");
}

#[tokio::test]
async fn busy_port_is_named() {
    let suite = Suite::start(Limits::default()).await;
    let taken = suite.addresses.otlp;
    let refused = Collector::bind("127.0.0.1:0".parse().unwrap(), taken, Limits::default())
        .await
        .unwrap_err();
    assert!(
        matches!(refused, Error::Bind { address, .. } if address == taken),
        "{refused}"
    );
}
