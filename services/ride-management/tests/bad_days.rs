//! Bad days: everything that ride-management leans on goes away, and it goes away itself. An acknowledged ride is kept
//! through all of it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::{
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use async_nats::jetstream::Context;
use futures::future::join_all;
use http::StatusCode;
use platform::{http::REQUEST_DEADLINE, postgres, start_up::START_DEADLINE};
use private_servers::{free_port, spawn_tied};
use serde_json::{Value, json};
use support::{
    City, driver_of,
    drivers::Drivers,
    eventually,
    frozen::{Frozen, send},
    quote, real_now,
};
use surge_proto::{
    subjects::{DEAD, DEMAND, DEMAND_WATERMARK, RIDES},
    v1::TripStage,
};
use tokio::time::timeout;
use uuid::Uuid;

#[tokio::test]
async fn a_ride_requested_while_driver_management_is_away_is_matched_when_it_comes() {
    let city = City::build().await;
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let supply_url = format!("http://{address}");
    let rides = city.open(&["--supply-url", &supply_url]).await;

    let answer = rides.request(Uuid::now_v7(), &quote()).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.body["state"], "requested");

    let drivers = Drivers::default();
    drivers.are_idle(1);
    drivers.serve_at(address.parse().unwrap()).await;
    let matched = rides.ride_when(&answer.body, "matched").await;
    assert!(matched["driver_id"].is_string());
    assert_eq!(drivers.busy(), 1);
}

#[tokio::test]
async fn a_driver_whose_answer_came_too_late_is_found_again() {
    let city = City::build().await;
    let (drivers, supply_url) = Drivers::open(1).await;
    drivers.answer_after(Duration::from_secs(3));
    let rides = city.open(&["--supply-url", &supply_url]).await;
    let ride = rides.request(Uuid::now_v7(), &quote()).await.body;
    assert_eq!(ride["state"], "requested");

    drivers.answer_after(Duration::ZERO);
    rides.ride_when(&ride, "matched").await;
    assert!(drivers.dispatches() > 1);
    assert_eq!(drivers.busy(), 1, "the same driver, not a second one");
}

#[tokio::test]
async fn patience_has_an_end() {
    let city = City::build().await;
    let (drivers, supply_url) = Drivers::open(1).await;
    drivers.answer_after(Duration::from_secs(60));
    let rides = city
        .open(&["--supply-url", &supply_url, "--match-patience", "1s"])
        .await;
    let ride = rides.request(Uuid::now_v7(), &quote()).await.body;
    rides.ride_when(&ride, "unserved").await;
    // A driver was sent, only nobody heard of it.
    drivers.all_are_free().await;
}

#[tokio::test]
async fn a_ride_cancelled_while_its_driver_is_being_found_keeps_no_driver() {
    let city = City::build().await;
    let (drivers, supply_url) = Drivers::open(1).await;
    drivers.answer_after(Duration::from_secs(60));
    let rides = city.open(&["--supply-url", &supply_url]).await;
    let (rider, quote) = (Uuid::now_v7(), quote());
    let cancel_meanwhile = async {
        let mut database = city.log_in_as("ride_management").await;
        let ride_id = eventually("the ride in the table", async || {
            let found = sqlx::query_scalar::<_, Uuid>("SELECT ride_id FROM ride");
            found.fetch_optional(&mut database).await.unwrap()
        });
        let ride = json!({ "ride_id": ride_id.await });
        let cancelled = rides.cancel(&ride).await;
        // Only now the driver is heard of, if anybody still listens.
        drivers.answer_after(Duration::ZERO);
        cancelled
    };
    let (requested, cancelled) = tokio::join!(rides.request(rider, &quote), cancel_meanwhile);
    assert_eq!(cancelled.body["state"], "cancelled");
    drivers.all_are_free().await;
    let ride = rides.look_at(&requested.body).await.body;
    assert_eq!(ride["state"], "cancelled");
    assert_eq!(ride["driver_id"], Value::Null);
}

#[tokio::test]
async fn a_cancellation_holds_while_driver_management_is_away_and_frees_the_driver_later() {
    let city = City::build().await;
    let (drivers, supply_url) = Drivers::open(1).await;
    let rides = city.open(&["--supply-url", &supply_url]).await;
    let ride = rides.request(Uuid::now_v7(), &quote()).await.body;
    rides.close().await;

    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let away = format!("http://{address}");
    let rides = city.open(&["--supply-url", &away]).await;
    assert_eq!(rides.cancel(&ride).await.body["state"], "cancelled");
    assert_eq!(drivers.busy(), 1);

    drivers.serve_at(address.parse().unwrap()).await;
    drivers.all_are_free().await;
}

#[tokio::test]
async fn events_wait_in_the_outbox_while_nats_is_away() {
    let mut city = City::build().await;
    let (_drivers, supply_url) = Drivers::open(1).await;
    let rides = city.open(&["--supply-url", &supply_url]).await;
    city.nats.kill().await;
    let ride = rides.request(Uuid::now_v7(), &quote()).await;
    assert_eq!(ride.status, StatusCode::CREATED);
    assert_eq!(ride.body["state"], "matched");
    let ready = rides.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK, "{:?}", ready.body);

    city.nats.restart().await.unwrap();
    let is_ours = |payload: &[u8]| {
        let event: surge_proto::v1::RideEvent = prost::Message::decode(payload).unwrap();
        event.ride_id == ride.body["ride_id"].as_str().unwrap()
    };
    for subject in ["surge.v1.rides.requested", "surge.v1.rides.matched"] {
        let told = city.last_message(RIDES, subject, |message| is_ours(&message.payload));
        told.await;
    }
    let mut database = city.log_in_as("ride_management").await;
    let waiting = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&mut database);
    let waiting: i64 = waiting.await.unwrap();
    assert_eq!(waiting, 0, "what was acknowledged is deleted");
    assert_eq!(
        messages_in(&city.jetstream().await).await,
        2,
        "none is doubled"
    );
}

#[tokio::test]
async fn the_events_of_the_last_requests_leave_before_the_process_does() {
    let city = City::build().await;
    let (drivers, supply_url) = Drivers::open(1).await;
    drivers.answer_after(Duration::from_millis(300));
    let rides = city.open(&["--supply-url", &supply_url]).await;
    // Its first watermark says that the service has made its streams.
    city.last_message(DEMAND, DEMAND_WATERMARK, |_| true).await;

    let end_meanwhile = async {
        let is_asked = async || (drivers.dispatches() > 0).then_some(());
        eventually("a dispatch under way", is_asked).await;
        rides.ask_to_end();
    };
    let (rider, quote) = (Uuid::now_v7(), quote());
    let (last, ()) = tokio::join!(rides.request(rider, &quote), end_meanwhile);
    assert_eq!(last.status, StatusCode::CREATED);
    rides.close().await;

    let mut database = city.log_in_as("ride_management").await;
    let waiting = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&mut database);
    let waiting: i64 = waiting.await.unwrap();
    assert_eq!(waiting, 0);
}

#[tokio::test]
async fn an_acknowledged_ride_survives_the_death_of_postgres() {
    let mut city = City::build().await;
    let (_drivers, supply_url) = Drivers::open(2).await;
    let rides = city.open(&["--supply-url", &supply_url]).await;
    let ride = rides.request(Uuid::now_v7(), &quote()).await.body;

    city.postgres.kill().await;
    let (rider, quote) = (Uuid::now_v7(), quote());
    let refused = rides.request(rider, &quote).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.body["detail"], "PostgreSQL is away; try again");
    let unready = rides.get("/readyz").await;
    assert_eq!(unready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(unready.body["dependencies"]["postgres"]["status"], "down");

    city.postgres.restart().await.unwrap();
    let answer = rides.request_patiently(rider, &quote).await;
    assert!(answer.status.is_success(), "{answer:?}");
    assert_eq!(rides.look_at(&ride).await.body, ride);
    // Whatever answers were lost, the count of demand ends up as the table has it.
    eventually("a count without doubt", async || {
        let as_of = real_now();
        (rides.app.all_demands(as_of) == city.demands_of_the_table(as_of).await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_postgres_that_hangs_is_an_outage_like_any_other() {
    let city = City::build().await;
    let rides = city.open(&[]).await;
    let crowd = || -> Vec<_> { (0..24).map(|_| (Uuid::now_v7(), quote())).collect() };
    // Many at once, so that there are connections for the next ones to be caught on.
    let early = crowd();
    let placed = early
        .iter()
        .map(|(rider, quote)| rides.request_patiently(*rider, quote));
    for answer in join_all(placed).await {
        assert!(answer.status.is_success(), "{answer:?}");
    }

    let wishes = crowd();
    let frozen = Frozen::freeze(city.postgres.pid().unwrap());
    // The first round meets connections that do not answer; the second finds none, and demand in doubt.
    for _ in 0..2 {
        let requests = wishes.iter().map(|(rider, quote)| async {
            let asked = Instant::now();
            (rides.request(*rider, quote).await, asked.elapsed())
        });
        for (refused, took) in join_all(requests).await {
            assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(took < REQUEST_DEADLINE, "{took:?}");
        }
    }
    let unready = rides.get("/readyz").await;
    assert_eq!(unready.body["dependencies"]["postgres"]["status"], "down");

    drop(frozen);
    for (rider, quote) in &wishes {
        let answer = rides.request_patiently(*rider, quote).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }
    rides.close().await;
}

#[tokio::test]
async fn a_connection_to_a_postgres_that_hangs_does_not_keep_its_place() {
    let city = City::build().await;
    let url = city.database_url("ride_management");
    let pool = postgres::pool(&url, "a test", 1).unwrap();
    postgres::probe(pool.clone()).await.unwrap();
    eventually("its connection is back", async || {
        (pool.num_idle() == 1).then_some(())
    })
    .await;

    let frozen = Frozen::freeze(city.postgres.pid().unwrap());
    let probe = timeout(Duration::from_millis(100), postgres::probe(pool.clone()));
    assert!(probe.await.is_err(), "it hangs");
    eventually("its connection is given up", async || {
        (pool.size() == 0).then_some(())
    })
    .await;
    drop(frozen);
    postgres::probe(pool).await.unwrap();
}

#[tokio::test]
async fn news_of_trips_waits_while_postgres_is_away() {
    let mut city = City::build().await;
    let (_drivers, supply_url) = Drivers::open(1).await;
    let rides = city.open(&["--supply-url", &supply_url]).await;
    let ride = rides.request(Uuid::now_v7(), &quote()).await.body;
    city.postgres.kill().await;
    city.driver_reports(&ride, driver_of(&ride), TripStage::PickedUp)
        .await;
    city.postgres.restart().await.unwrap();
    rides.ride_when(&ride, "picked_up").await;
}

#[tokio::test]
async fn news_of_a_drop_off_completes_a_ride_whose_match_was_never_heard_of() {
    let city = City::build().await;
    let rides = city.open(&[]).await;
    let ride = rides.request(Uuid::now_v7(), &quote()).await.body;
    assert_eq!(ride["state"], "requested");
    let driver = Uuid::now_v7();
    city.driver_reports(&ride, driver, TripStage::DroppedOff)
        .await;
    let completed = rides.ride_when(&ride, "completed").await;
    assert_eq!(driver_of(&completed), driver);
}

#[tokio::test]
async fn a_message_that_makes_no_sense_is_put_aside_and_the_next_one_counts() {
    let city = City::build().await;
    let (_drivers, supply_url) = Drivers::open(1).await;
    let rides = city.open(&["--supply-url", &supply_url]).await;
    let ride = rides.request(Uuid::now_v7(), &quote()).await.body;
    let nonsense = b"\xff\xff\xff nonsense".to_vec();
    city.publish_trip(nonsense.clone()).await;
    city.driver_reports(&ride, driver_of(&ride), TripStage::PickedUp)
        .await;
    rides.ride_when(&ride, "picked_up").await;

    let dead = city.last_message(DEAD, "surge.dead.TRIPS", |_| true).await;
    assert_eq!(dead.payload.as_ref(), nonsense);
    let reason = dead.headers.get("Surge-Dead-Reason").unwrap();
    assert!(reason.as_str().contains("not a TripProgress"), "{reason}");
}

#[tokio::test]
async fn an_acknowledged_ride_survives_the_death_of_the_process() {
    let city = City::build().await;
    let (drivers, supply_url) = Drivers::open(0).await;
    drivers.answer_after(Duration::from_secs(60));
    let port = free_port().unwrap();
    let mut process = spawn_tied(process_of(&city, port, &supply_url)).unwrap();

    let client = support::http_client();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let body = support::wish(Uuid::now_v7(), &quote()).to_string();
    let answer = eventually("the process to serve", async || {
        let post = http::Method::POST;
        let body = body.clone().into_bytes();
        support::call(
            &client,
            address,
            post,
            "/v1/rides",
            Some("application/json"),
            body,
        )
        .await
    });
    let ride = answer.await.body;
    assert_eq!(ride["state"], "requested");
    process.kill().unwrap(); // SIGKILL: nothing is finished, nothing flushed
    process.wait().unwrap();

    drivers.answer_after(Duration::ZERO);
    drivers.are_idle(1);
    let rides = city.open(&["--supply-url", &supply_url]).await;
    rides.ride_when(&ride, "matched").await;
}

#[tokio::test]
async fn a_process_that_waits_for_postgres_ends_when_it_is_asked_to() {
    let mut city = City::build().await;
    city.postgres.kill().await;
    let port = free_port().unwrap();
    let mut process = spawn_tied(process_of(&city, port, "http://127.0.0.1:9")).unwrap();
    eventually("the process to wait", async || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    })
    .await;

    send("TERM", process.id());
    let asked = Instant::now();
    let ended = eventually("its end", async || process.try_wait().unwrap()).await;
    assert!(ended.success(), "{ended}");
    assert!(asked.elapsed() < START_DEADLINE / 2);
}

fn process_of(city: &City, port: u16, supply_url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ride-management"));
    command
        .env("DATABASE_URL", city.database_url("ride_management"))
        .env("NATS_URL", city.nats.url())
        .env("QUOTE_KEY", support::QUOTE_KEY)
        .env("SUPPLY_URL", supply_url)
        .env("HTTP_ADDR", format!("127.0.0.1:{port}"))
        .env("GRPC_ADDR", "127.0.0.1:0")
        .env("RUST_LOG", "off");
    command
}

async fn messages_in(jetstream: &Context) -> usize {
    let stream = jetstream.get_stream(RIDES.name).await.unwrap();
    let messages = stream.cached_info().state.messages;
    usize::try_from(messages).unwrap()
}
