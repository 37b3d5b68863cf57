//! Demand, and the three ways in which others learn of it: the gRPC answer, the feed on JetStream and the views in
//! PostgreSQL. All three say the same.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream::message::StreamMessage;
use chrono::{DateTime, Utc};
use marketplace::{
    demand::{DemandForecaster, DemandProfile, FilterSettings},
    time::MarketTime,
    view::Level,
    zone::{Bounds, Position, ServiceArea, Zone},
};
use prost::Message as _;
use ride_management::{Service, events::DemandFeed};
use sqlx::PgConnection;
use support::{City, RideManagement, eventually, midtown, quote_from, real_now};
use surge_proto::{
    subjects::{DEMAND, DEMAND_WATERMARK, demand_of},
    v1::{self, GetDemandRequest, demand_service_client::DemandServiceClient},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use uuid::Uuid;

#[tokio::test]
async fn a_request_raises_the_demand_of_its_zone_at_once_served_or_not() {
    let city = City::build().await;
    let rides = city.open(&[]).await;
    let zone = Zone::at(midtown());
    let before = rides.app.demand(zone).unwrap().level.value;
    let quote = quote_from(midtown());
    let rider = Uuid::now_v7();
    rides.request(rider, &quote).await;
    let after = rides.app.demand(zone).unwrap().level.value;
    assert!(after > before, "{before} -> {after}");

    rides.request(rider, &quote).await;
    let repeated = rides.app.demand(zone).unwrap().level.value;
    assert!(repeated <= after, "a repeated request is no second request");
}

#[tokio::test]
async fn a_forecast_made_anew_from_the_table_is_the_same_to_the_last_bit() {
    let city = City::build().await;
    let rides = city.open(&[]).await;
    ask_all_over_town(&rides).await;
    let as_of = real_now();
    let live = rides.app.all_demands(as_of);
    assert_eq!(live, city.demands_of_the_table(as_of).await);

    // And so does price-optimization forecast it, from the published views alone.
    let mut visitor = city.log_in_as("price_optimization").await;
    assert_eq!(live, demands_of_the_views(&mut visitor, as_of).await);
}

#[tokio::test]
async fn others_may_read_the_views_and_nothing_else() {
    let city = City::build().await;
    let _rides = city.open(&[]).await;
    let mut visitor = city.log_in_as("price_optimization").await;
    for table in ["ride.ride", "ride.replica", "ride.outbox"] {
        let sql = format!("SELECT * FROM {table}");
        let read = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut visitor);
        let refused = read.await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{refused}");
    }
}

#[tokio::test]
async fn the_watermark_in_the_database_moves_while_nobody_wants_a_ride() {
    let city = City::build().await;
    let _rides = city.open(&["--forecast-window", "10m"]).await;
    let mut visitor = city.log_in_as("price_optimization").await;
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
async fn the_feed_tells_every_level_and_then_the_watermark() {
    let city = City::build().await;
    let rides = city.open(&[]).await;
    let watermark = city.last_message(DEMAND, DEMAND_WATERMARK, |_| true).await;
    let watermark = v1::Watermark::decode(watermark.payload).unwrap();
    let zones = rides.app.zones();

    let stream = city
        .jetstream()
        .await
        .get_stream(DEMAND.name)
        .await
        .unwrap();
    for sequence in 1..=zones.len() as u64 {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let level = v1::DemandLevel::decode(message.payload).unwrap();
        assert!(level.as_of.unwrap().seconds <= watermark.as_of.unwrap().seconds);
        assert_eq!(
            message.headers.get("Surge-Schema").unwrap().as_str(),
            "surge.v1.DemandLevel"
        );
    }
    let next = stream
        .get_raw_message(zones.len() as u64 + 1)
        .await
        .unwrap();
    assert_eq!(
        next.subject.as_str(),
        DEMAND_WATERMARK,
        "after all levels of its step"
    );
}

#[tokio::test]
async fn the_feed_tells_what_changed_and_everything_after_an_outage() {
    let mut city = City::build().await;
    let service = Service::start(city.config(&[])).await.unwrap();
    let (app, client) = (service.app(), city.nats_client().await);
    let mut feed = DemandFeed::new(app.clone(), client, Duration::ZERO);
    let all = app.zones().len();
    assert_eq!(feed.step().await.unwrap(), all, "nobody knows anything yet");
    assert_eq!(feed.step().await.unwrap(), 0, "nothing happened since");

    let request = support::request(Uuid::now_v7(), &quote_from(midtown()));
    app.request_ride(request).await.unwrap();
    let changed = feed.step().await.unwrap();
    assert!((1..all).contains(&changed), "{changed} of {all}");
    let subject = demand_of(Zone::at(midtown()));
    let told = city.last_message(DEMAND, &subject, |_| true).await;
    let (zone, level) = level_of(&told.payload);
    assert_eq!(zone, Zone::at(midtown()));
    assert!((level.value - app.demand(zone).unwrap().level.value).abs() < 0.005);

    city.nats.kill().await;
    feed.step().await.unwrap_err();
    city.nats.restart().await.unwrap();
    let give_up = Instant::now() + Duration::from_secs(20);
    let told_again = loop {
        match feed.step().await {
            Ok(levels) => break levels,
            Err(error) => assert!(Instant::now() < give_up, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(told_again, all, "what readers have is not known any more");
}

#[tokio::test]
async fn a_level_that_the_stream_has_forgotten_is_told_again() {
    let city = City::build().await;
    let service = Service::start(city.config(&[])).await.unwrap();
    let (every, again) = (Duration::from_millis(20), Duration::from_millis(200));
    let feed = DemandFeed::new(service.app(), city.nats_client().await, every);
    let stop = CancellationToken::new();
    let feeding = tokio::spawn(feed.telling_again(again).run(stop.clone()));
    let quiet = service.app().zones()[0];
    let subject = demand_of(quiet);
    let told = city.last_message(DEMAND, &subject, |_| true).await;

    let stream = city.jetstream().await.get_stream(DEMAND.name).await;
    let purged = stream.unwrap().purge().filter(&subject).await.unwrap();
    assert!(purged.purged >= 1);
    let is_new = |message: &StreamMessage| message.sequence > told.sequence;
    let again = city.last_message(DEMAND, &subject, is_new).await;
    assert_eq!(level_of(&again.payload).0, quiet);
    stop.cancel();
    feeding.await.unwrap();
}

#[tokio::test]
async fn grpc_and_rest_answer_with_the_same_level() {
    let city = City::build().await;
    let rides = city.open(&[]).await;
    ask_all_over_town(&rides).await;
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

    let rest = rides.get(&format!("/v1/demand/{}", names[0])).await.body;
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
async fn rest_tells_the_counts_behind_a_forecast_and_who_takes_them_over_forecasts_the_same() {
    let city = City::build().await;
    let rides = city.open(&[]).await;
    ask_all_over_town(&rides).await;
    let area = ServiceArea::new(Bounds::NEW_YORK);
    let quiet = rides.app.zones()[1];
    let told = rides.get(&format!("/v1/demand/{quiet}")).await.body;
    assert_eq!(told["windows"], serde_json::json!([]));

    let observed_since = told["observed_since"].as_str().unwrap().parse().unwrap();
    let mut successor = DemandForecaster::new(
        Arc::new(DemandProfile::flat(area.zones())),
        area.zones(),
        Duration::from_secs(300),
        observed_since,
        FilterSettings::default(),
    );
    for zone in area.zones() {
        let told = rides.get(&format!("/v1/demand/{zone}")).await.body;
        for window in told["windows"].as_array().unwrap() {
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

async fn ask_all_over_town(rides: &RideManagement) {
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
