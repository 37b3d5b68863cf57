//! Demand, and the three ways in which others learn of it: the gRPC answer, the feed on JetStream
//! and the views in PostgreSQL. All three say the same.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::message::StreamMessage;
use chrono::{DateTime, Utc};
use marketplace::{
    demand::{DemandForecaster, DemandProfile, FilterSettings},
    time::MarketTime,
    view::Level,
    zone::{Bounds, Position, ServiceArea, Zone},
};
use prost::Message as _;
use ride_management::{Service, workers::demand_publisher::DemandPublisher};
use serde_json::json;
use sqlx::PgConnection;
use surge_proto::{
    subjects::{DEMAND, DEMAND_WATERMARK, demand_of},
    v1::{self, GetDemandRequest, demand_service_client::DemandServiceClient},
};
use test_harness::{Servers, eventually, midtown};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use uuid::Uuid;

use crate::support::{
    RideManagement, config, demands_of_the_table, quote, quote_from, real_now, ride_request,
};

#[tokio::test]
async fn request_raises_demand_at_once() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    let zone = Zone::at(midtown());
    let before = rides.app.demand(zone).unwrap().level.value;
    let quote = quote();
    let rider = Uuid::now_v7();
    rides.request(rider, &quote).await;
    let after = rides.app.demand(zone).unwrap().level.value;
    assert!(after > before, "{before} -> {after}");

    rides.request(rider, &quote).await;
    let repeated = rides.app.demand(zone).unwrap().level.value;
    assert!(repeated <= after, "a repeated request is no second request");
}

#[tokio::test]
async fn forecast_from_the_table_is_the_same() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    request_all_over_town(&rides).await;
    let as_of = real_now();
    let live = rides.app.all_demands(as_of);
    assert_eq!(live, demands_of_the_table(&servers, as_of).await);

    // And so does price-optimization forecast it, from the published views alone.
    let mut visitor = servers.connection_as("price_optimization").await;
    assert_eq!(live, demands_of_the_views(&mut visitor, as_of).await);
}

#[tokio::test]
async fn other_roles_read_only_the_views() {
    let servers = Servers::start().await;
    let _rides = RideManagement::start(&servers).await;
    let mut visitor = servers.connection_as("price_optimization").await;
    for table in ["ride.ride", "ride.replica", "ride.outbox"] {
        let sql = format!("SELECT * FROM {table}");
        let read = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut visitor);
        let refused = read.await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{refused}");
    }
}

#[tokio::test]
async fn watermark_moves_without_requests() {
    let servers = Servers::start().await;
    let _rides = RideManagement::start_with(&servers, &["--forecast-window", "10m"]).await;
    let mut visitor = servers.connection_as("price_optimization").await;
    let (_, first, window_seconds) = watermark(&mut visitor).await;
    assert_eq!(window_seconds, 600);
    eventually("a later watermark", async || {
        let (observed_since, as_of, _) = watermark(&mut visitor).await;
        assert!(as_of >= first && as_of >= observed_since);
        (as_of > first).then_some(())
    })
    .await;
}

#[tokio::test]
async fn watermark_follows_every_level() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    let watermark = servers
        .last_message(DEMAND.name, DEMAND_WATERMARK, |_| true)
        .await;
    let watermark = v1::Watermark::decode(watermark.payload).unwrap();
    let zones = rides.app.zones();

    let stream = servers.jetstream().await.get_stream(DEMAND.name).await;
    let stream = stream.unwrap();
    for sequence in 1..=zones.len() as u64 {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let level = v1::DemandLevel::decode(message.payload).unwrap();
        assert!(level.as_of.unwrap().seconds <= watermark.as_of.unwrap().seconds);
        let schema = message.headers.get("Surge-Schema").unwrap();
        assert_eq!(schema.as_str(), "surge.v1.DemandLevel");
    }
    let next = stream.get_raw_message(zones.len() as u64 + 1).await;
    assert_eq!(next.unwrap().subject.as_str(), DEMAND_WATERMARK);
}

#[tokio::test]
async fn feed_resyncs_after_an_outage() {
    let mut servers = Servers::start().await;
    let service = Service::start(config(&servers, &[])).await.unwrap();
    let (app, client) = (service.app(), servers.nats_client().await);
    let mut feed = DemandPublisher::new(app.clone(), client, Duration::ZERO);
    let all = app.zones().len();
    assert_eq!(
        feed.step().await.unwrap(),
        all,
        "no consumer has anything yet"
    );
    assert_eq!(feed.step().await.unwrap(), 0, "nothing happened since");

    let request = ride_request(Uuid::now_v7(), &quote());
    app.request_ride(request).await.unwrap();
    let changed = feed.step().await.unwrap();
    assert!((1..all).contains(&changed), "{changed} of {all}");
    let subject = demand_of(Zone::at(midtown()));
    let message = servers.last_message(DEMAND.name, &subject, |_| true).await;
    let (zone, level) = level_of(&message.payload);
    assert_eq!(zone, Zone::at(midtown()));
    assert!((level.value - app.demand(zone).unwrap().level.value).abs() < 0.005);

    servers.nats.kill().await;
    feed.step().await.unwrap_err();
    servers.nats.restart().await.unwrap();
    let published = eventually("the feed goes on", async || feed.step().await.ok()).await;
    assert_eq!(published, all, "consumers may have lost any of them");
}

#[tokio::test]
async fn forgotten_level_is_published_again() {
    let servers = Servers::start().await;
    let service = Service::start(config(&servers, &[])).await.unwrap();
    let every = Duration::from_millis(20);
    let feed = DemandPublisher::new(service.app(), servers.nats_client().await, every);
    let stop = CancellationToken::new();
    let feeding = tokio::spawn(feed.run(stop.clone()));
    let quiet = service.app().zones()[0];
    let subject = demand_of(quiet);
    let first = servers.last_message(DEMAND.name, &subject, |_| true).await;

    let stream = servers.jetstream().await.get_stream(DEMAND.name).await;
    let purged = stream.unwrap().purge().filter(&subject).await.unwrap();
    assert!(purged.purged >= 1);
    let is_new = |message: &StreamMessage| message.sequence > first.sequence;
    let again = servers.last_message(DEMAND.name, &subject, is_new).await;
    assert_eq!(level_of(&again.payload).0, quiet);
    stop.cancel();
    feeding.await.unwrap();
}

#[tokio::test]
async fn grpc_and_rest_give_the_same_level() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    request_all_over_town(&rides).await;
    let zones: Vec<Zone> = rides.app.zones()[..7].iter().rev().copied().collect();
    let mut client = DemandServiceClient::new(rides.channel().await);
    let ask = |zones: Vec<String>| GetDemandRequest { zones };

    let names: Vec<String> = zones.iter().map(ToString::to_string).collect();
    let answer = client.get_demand(ask(names.clone())).await.unwrap();
    let levels = answer.into_inner().levels;
    let answered: Vec<&str> = levels.iter().map(|level| level.zone.as_str()).collect();
    assert_eq!(answered, names, "in the order of the request");
    let (_, first) = <(Zone, Level)>::try_from(&levels[0]).unwrap();
    assert!(levels.iter().all(|level| level.as_of == levels[0].as_of));

    let path = format!("/v1/demand/{}", names[0]);
    let rest = rides.rest.get(&path).await.body;
    let difference = rest["demand"].as_f64().unwrap() - first.value;
    assert!(difference.abs() < 1e-3, "{rest}");

    let paris = Zone::at(Position::new(48.86, 2.35).unwrap()).to_string();
    for nonsense in [vec![], vec!["manhattan".to_owned()], vec![paris]] {
        let status = client.get_demand(ask(nonsense)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("zone"), "{status:?}");
    }
}

#[tokio::test]
async fn published_counts_give_the_same_forecast() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    request_all_over_town(&rides).await;
    let area = ServiceArea::new(Bounds::NEW_YORK);
    let quiet = rides.app.zones()[1];
    let answer = rides.rest.get(&format!("/v1/demand/{quiet}")).await.body;
    assert_eq!(answer["windows"], json!([]));

    let observed_since = answer["observed_since"].as_str().unwrap().parse().unwrap();
    let mut successor = DemandForecaster::new(
        Arc::new(DemandProfile::flat(area.zones())),
        area.zones(),
        Duration::from_secs(300),
        observed_since,
        FilterSettings::default(),
    );
    for zone in area.zones() {
        let answer = rides.rest.get(&format!("/v1/demand/{zone}")).await.body;
        for window in answer["windows"].as_array().unwrap() {
            let start: MarketTime = window["start"].as_str().unwrap().parse().unwrap();
            let requests = u32::try_from(window["requests"].as_u64().unwrap()).unwrap();
            successor.record_count(*zone, start, requests);
        }
    }
    let as_of = real_now();
    let taken_over = successor.forecasts(area.zones(), as_of);
    let live = rides.app.all_demands(as_of);
    let live: Vec<f64> = live.into_iter().map(|level| level.value).collect();
    assert_eq!(taken_over, live);
    assert!(live[0] > live[1], "two requests in zone 0, none in zone 1");
}

async fn request_all_over_town(rides: &RideManagement) {
    for zone in rides.app.zones().iter().step_by(9) {
        for _ in 0..2 {
            let quote = quote_from(zone.centre());
            let answer = rides.request(Uuid::now_v7(), &quote).await;
            assert!(answer.status.is_success());
        }
    }
}

async fn demands_of_the_views(visitor: &mut PgConnection, as_of: MarketTime) -> Vec<Level> {
    let (observed_since, _, window_seconds) = watermark(visitor).await;
    let area = ServiceArea::new(Bounds::NEW_YORK);
    let mut forecaster = DemandForecaster::new(
        Arc::new(DemandProfile::flat(area.zones())),
        area.zones(),
        Duration::from_secs(window_seconds as u64),
        market_time(observed_since),
        FilterSettings::default(),
    );
    let counts: Vec<(String, DateTime<Utc>, i64)> =
        sqlx::query_as("SELECT zone, window_start, requests FROM ride.demand_by_zone_window")
            .fetch_all(visitor)
            .await
            .unwrap();
    for (zone, window_start, requests) in counts {
        let requests = u32::try_from(requests).unwrap();
        forecaster.record_count(zone.parse().unwrap(), market_time(window_start), requests);
    }
    let forecasts = forecaster.forecasts(area.zones(), as_of);
    let level = |value| Level { value, as_of };
    forecasts.into_iter().map(level).collect()
}

async fn watermark(visitor: &mut PgConnection) -> (DateTime<Utc>, DateTime<Utc>, i32) {
    sqlx::query_as("SELECT observed_since, as_of, window_seconds FROM ride.demand_watermark")
        .fetch_one(visitor)
        .await
        .unwrap()
}

fn level_of(payload: &[u8]) -> (Zone, Level) {
    let wire = v1::DemandLevel::decode(payload).unwrap();
    (&wire).try_into().unwrap()
}

fn market_time(column: DateTime<Utc>) -> MarketTime {
    MarketTime::from_millis(column.timestamp_millis())
}
