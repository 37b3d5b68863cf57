//! Outages: everything that ride-management depends on goes away, and so does the process itself.
//! An acknowledged ride is kept through all of it.

use std::{
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use futures::future::join_all;
use http::StatusCode;
use platform::{fault::REQUEST_DEADLINE, postgres, start_up::START_DEADLINE};
use private_servers::{free_port, spawn_tied};
use prost::Message as _;
use serde_json::{Value, json};
use surge_proto::{
    subjects::{DEAD, DEMAND, DEMAND_WATERMARK, RIDES, TRIPS},
    v1::{RideEvent, TripStage},
};
use test_harness::{Frozen, Loss, RestClient, Servers, eventually, exit_status, signal, until};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    drivers::Drivers,
    support::{
        QUOTE_KEY, ROLE, RideManagement, demands_of_the_table, driver_of, driver_reports,
        events_in_outbox, publish_trip, quote, real_now, request_body,
    },
};

#[tokio::test]
async fn ride_waits_for_driver_management() {
    let servers = Servers::start().await;
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let rides = RideManagement::start_at(&servers, &format!("http://{address}")).await;
    let ride = rides.new_ride().await;
    assert_eq!(ride["state"], "requested");

    let drivers = Drivers::default();
    drivers.are_idle(1);
    drivers.serve_at(address.parse().unwrap()).await;
    let matched = rides.ride_when(&ride, "matched").await;
    assert!(matched["driver_id"].is_string());
    assert_eq!(drivers.busy(), 1);
}

#[tokio::test]
async fn trips_are_followed_after_broker_losses() {
    let mut servers = Servers::start().await;
    let (_drivers, supply_url) = Drivers::open(9).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let ride = rides.new_ride().await;
    driver_reports(&servers, &ride, driver_of(&ride), TripStage::PickedUp).await;
    rides.ride_when(&ride, "picked_up").await;
    let backup = servers.back_up_nats().await;
    for loss in Loss::all(&backup) {
        servers.lose(TRIPS.name, loss).await;
        let ride = rides.new_ride().await;
        driver_reports(&servers, &ride, driver_of(&ride), TripStage::PickedUp).await;
        rides.ride_when(&ride, "picked_up").await;
    }
    until("the outbox is empty", async || {
        events_in_outbox(&servers).await == 0
    })
    .await;
}

#[tokio::test]
async fn late_dispatch_answer_is_asked_for_again() {
    let servers = Servers::start().await;
    let (drivers, supply_url) = Drivers::open(1).await;
    drivers.answer_after(Duration::from_secs(3));
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let ride = rides.new_ride().await;
    assert_eq!(ride["state"], "requested");

    drivers.answer_after(Duration::ZERO);
    rides.ride_when(&ride, "matched").await;
    assert!(drivers.dispatches() > 1);
    assert_eq!(drivers.busy(), 1, "the same driver, not a second one");
}

#[tokio::test]
async fn ride_is_unserved_when_patience_ends() {
    let servers = Servers::start().await;
    let (drivers, supply_url) = Drivers::open(1).await;
    drivers.answer_after(Duration::from_secs(60));
    let flags = ["--supply-url", &supply_url, "--match-patience", "1s"];
    let rides = RideManagement::start_with(&servers, &flags).await;
    let ride = rides.new_ride().await;
    rides.ride_when(&ride, "unserved").await;
    // A driver was sent, but the answer never arrived.
    drivers.all_are_free().await;
}

#[tokio::test]
async fn cancelling_during_dispatch_frees_the_driver() {
    let servers = Servers::start().await;
    let (drivers, supply_url) = Drivers::open(1).await;
    drivers.answer_after(Duration::from_secs(60));
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let (rider, quote) = (Uuid::now_v7(), quote());
    let cancel_meanwhile = async {
        let mut database = servers.connection_as(ROLE).await;
        let ride_id = eventually("the ride is in the table", async || {
            let found = sqlx::query_scalar::<_, Uuid>("SELECT ride_id FROM ride");
            found.fetch_optional(&mut database).await.unwrap()
        });
        let ride = json!({ "ride_id": ride_id.await });
        let cancelled = rides.cancel(&ride).await;
        // Only now does driver-management answer, if the caller still waits.
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
async fn cancellation_frees_the_driver_later() {
    let servers = Servers::start().await;
    let (drivers, supply_url) = Drivers::open(1).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let ride = rides.new_ride().await;
    rides.stop().await;

    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let rides = RideManagement::start_at(&servers, &format!("http://{address}")).await;
    assert_eq!(rides.cancel(&ride).await.body["state"], "cancelled");
    assert_eq!(drivers.busy(), 1);

    drivers.serve_at(address.parse().unwrap()).await;
    drivers.all_are_free().await;
}

#[tokio::test]
async fn events_wait_while_nats_is_away() {
    let mut servers = Servers::start().await;
    let (_drivers, supply_url) = Drivers::open(1).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    servers.nats.kill().await;
    let ride = rides.new_ride().await;
    assert_eq!(ride["state"], "matched");
    let ready = rides.rest.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK, "{:?}", ready.body);

    servers.nats.restart().await.unwrap();
    for subject in ["surge.v1.rides.requested", "surge.v1.rides.matched"] {
        let published = servers.last_message(RIDES.name, subject, |message| {
            let event = RideEvent::decode(message.payload.clone()).unwrap();
            event.ride_id == ride["ride_id"].as_str().unwrap()
        });
        published.await;
    }
    until("the outbox is empty", async || {
        events_in_outbox(&servers).await == 0
    })
    .await;
    let stream = servers.jetstream().await.get_stream(RIDES.name).await;
    let messages = stream.unwrap().cached_info().state.messages;
    assert_eq!(messages, 2, "no event is doubled");
}

#[tokio::test]
async fn last_events_leave_before_the_process_ends() {
    let servers = Servers::start().await;
    let (drivers, supply_url) = Drivers::open(1).await;
    drivers.answer_after(Duration::from_millis(300));
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    // The first watermark says that the service has made its streams.
    let watermark = servers.last_message(DEMAND.name, DEMAND_WATERMARK, |_| true);
    watermark.await;

    let stop_meanwhile = async {
        until("a dispatch is under way", async || drivers.dispatches() > 0).await;
        rides.ask_to_stop();
    };
    let (rider, quote) = (Uuid::now_v7(), quote());
    let (last, ()) = tokio::join!(rides.request(rider, &quote), stop_meanwhile);
    assert_eq!(last.status, StatusCode::CREATED);
    rides.stop().await;
    assert_eq!(events_in_outbox(&servers).await, 0);
}

#[tokio::test]
async fn ride_survives_the_death_of_postgres() {
    let mut servers = Servers::start().await;
    let (_drivers, supply_url) = Drivers::open(2).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let ride = rides.new_ride().await;

    servers.postgres.kill().await;
    let (rider, quote) = (Uuid::now_v7(), quote());
    let refused = rides.request(rider, &quote).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.body["detail"], "PostgreSQL is away; try again");
    let unready = rides.rest.get("/readyz").await;
    assert_eq!(unready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(unready.body["dependencies"]["postgres"]["status"], "down");

    servers.postgres.restart().await.unwrap();
    let answer = rides.request_patiently(rider, &quote).await;
    assert!(answer.status.is_success(), "{answer:?}");
    assert_eq!(rides.look_at(&ride).await.body, ride);
    // Whatever answers were lost, the count of demand becomes that of the table.
    until("demand is that of the table", async || {
        let as_of = real_now();
        rides.app.all_demands(as_of) == demands_of_the_table(&servers, as_of).await
    })
    .await;
}

#[tokio::test]
async fn ended_sessions_cost_no_answer() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    for _ in 0..3 {
        servers.end_sessions(ROLE).await;
        let requests: Vec<_> = (0..16).map(|_| (Uuid::now_v7(), quote())).collect();
        let requests = requests.iter();
        let placed = requests.map(|(rider, quote)| rides.request(*rider, quote));
        let placed = join_all(placed).await;
        servers.end_sessions(ROLE).await;
        for ride in placed {
            assert_eq!(ride.status, StatusCode::CREATED, "{}", ride.body);
            let (seen, cancelled) =
                tokio::join!(rides.look_at(&ride.body), rides.cancel(&ride.body));
            assert_eq!(seen.status, StatusCode::OK, "{}", seen.body);
            assert_eq!(cancelled.status, StatusCode::OK, "{}", cancelled.body);
        }
    }
    rides.stop().await;
}

#[tokio::test]
async fn server_that_only_reads_is_an_outage() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    servers.only_reads(ROLE, true).await;
    let refused = rides.request(Uuid::now_v7(), &quote()).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    let advice = "PostgreSQL only reads at present; try again";
    assert_eq!(refused.body["detail"], advice);
    let unready = rides.rest.get("/readyz").await;
    assert_eq!(unready.body["dependencies"]["postgres"]["status"], "down");

    // The sessions of that time are open, and would go on to refuse.
    servers.only_reads(ROLE, false).await;
    let taken = rides.request(Uuid::now_v7(), &quote()).await;
    assert_eq!(taken.status, StatusCode::CREATED, "{}", taken.body);
    until("the service is ready", async || {
        rides.rest.get("/readyz").await.status == StatusCode::OK
    })
    .await;
    rides.stop().await;
}

#[tokio::test]
async fn grown_schema_costs_no_answer() {
    let servers = Servers::start().await;
    let (drivers, supply_url) = Drivers::open(1_000_000).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    servers
        .grow_schema(ROLE, async || {
            let (rider, quote) = (Uuid::now_v7(), quote());
            let ride = rides.request(rider, &quote).await;
            assert_eq!(ride.body["state"], "matched", "{}", ride.body);
            let repeated = rides.request(rider, &quote).await;
            assert_eq!(repeated.status, StatusCode::OK, "{}", repeated.body);
            let seen = rides.look_at(&ride.body).await;
            assert_eq!(seen.status, StatusCode::OK, "{}", seen.body);
            let cancelled = rides.cancel(&ride.body).await;
            assert_eq!(cancelled.body["state"], "cancelled", "{}", cancelled.body);
        })
        .await;
    drivers.all_are_free().await;
    rides.stop().await;
}

#[tokio::test]
async fn hanging_postgres_is_an_outage() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    let crowd = || -> Vec<_> { (0..24).map(|_| (Uuid::now_v7(), quote())).collect() };
    // Many at once, so that the pool has connections that then stop to answer.
    let early = crowd();
    let placed = early
        .iter()
        .map(|(rider, quote)| rides.request_patiently(*rider, quote));
    for answer in join_all(placed).await {
        assert!(answer.status.is_success(), "{answer:?}");
    }

    let requests = crowd();
    let frozen = Frozen::freeze(servers.postgres.pid().unwrap());
    // The first round meets connections that do not answer; the second finds none, and demand in
    // doubt.
    for _ in 0..2 {
        let refused = requests.iter().map(async |(rider, quote)| {
            let asked = Instant::now();
            (rides.request(*rider, quote).await, asked.elapsed())
        });
        for (refused, waited) in join_all(refused).await {
            assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(waited < REQUEST_DEADLINE, "{waited:?}");
        }
    }
    let unready = rides.rest.get("/readyz").await;
    assert_eq!(unready.body["dependencies"]["postgres"]["status"], "down");

    drop(frozen);
    for (rider, quote) in &requests {
        let answer = rides.request_patiently(*rider, quote).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }
    rides.stop().await;
}

#[tokio::test]
async fn hanging_connection_leaves_the_pool() {
    let servers = Servers::start().await;
    let pool = servers.pool_as(ROLE, 1);
    postgres::probe(pool.clone()).await.unwrap();
    until("its connection is back", async || pool.num_idle() == 1).await;

    let frozen = Frozen::freeze(servers.postgres.pid().unwrap());
    let probe = timeout(Duration::from_millis(100), postgres::probe(pool.clone()));
    assert!(probe.await.is_err(), "it hangs");
    until("its connection is given up", async || pool.size() == 0).await;
    drop(frozen);
    postgres::probe(pool).await.unwrap();
}

#[tokio::test]
async fn trip_events_wait_while_postgres_is_away() {
    let mut servers = Servers::start().await;
    let (_drivers, supply_url) = Drivers::open(1).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let ride = rides.new_ride().await;
    servers.postgres.kill().await;
    driver_reports(&servers, &ride, driver_of(&ride), TripStage::PickedUp).await;
    servers.postgres.restart().await.unwrap();
    rides.ride_when(&ride, "picked_up").await;
}

#[tokio::test]
async fn drop_off_completes_a_requested_ride() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    let ride = rides.new_ride().await;
    assert_eq!(ride["state"], "requested");
    let driver = Uuid::now_v7();
    driver_reports(&servers, &ride, driver, TripStage::DroppedOff).await;
    let completed = rides.ride_when(&ride, "completed").await;
    assert_eq!(driver_of(&completed), driver);
}

#[tokio::test]
async fn malformed_trip_event_becomes_a_dead_letter() {
    let servers = Servers::start().await;
    let (_drivers, supply_url) = Drivers::open(1).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let ride = rides.new_ride().await;
    let nonsense = b"\xff\xff\xff nonsense".to_vec();
    publish_trip(&servers, nonsense.clone()).await;
    driver_reports(&servers, &ride, driver_of(&ride), TripStage::PickedUp).await;
    rides.ride_when(&ride, "picked_up").await;

    let dead = servers.last_message(DEAD.name, "surge.dead.TRIPS", |_| true);
    let dead = dead.await;
    assert_eq!(dead.payload.as_ref(), nonsense);
    let reason = dead.headers.get("Surge-Dead-Reason").unwrap();
    assert!(reason.as_str().contains("not a TripProgress"), "{reason}");
}

#[tokio::test]
async fn ride_survives_the_death_of_the_process() {
    let servers = Servers::start().await;
    let (drivers, supply_url) = Drivers::open(0).await;
    drivers.answer_after(Duration::from_secs(60));
    let port = free_port().unwrap();
    let mut process = spawn_tied(command(&servers, port, &supply_url)).unwrap();
    let rest = RestClient::connect(([127, 0, 0, 1], port).into()).await;
    let body = request_body(Uuid::now_v7(), &quote());
    let ride = rest.post("/v1/rides", &body).await.body;
    assert_eq!(ride["state"], "requested");
    process.kill().unwrap(); // SIGKILL: the process finishes and flushes nothing.
    process.wait().unwrap();

    drivers.answer_after(Duration::ZERO);
    drivers.are_idle(1);
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    rides.ride_when(&ride, "matched").await;
}

#[tokio::test]
async fn start_without_postgres_can_be_stopped() {
    let mut servers = Servers::start().await;
    servers.postgres.kill().await;
    let port = free_port().unwrap();
    let mut process = spawn_tied(command(&servers, port, "http://127.0.0.1:9")).unwrap();
    until("the process listens, and waits", async || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    })
    .await;

    signal(process.id(), "TERM");
    let asked = Instant::now();
    let status = exit_status(&mut process).await;
    assert!(status.success(), "{status}");
    assert!(asked.elapsed() < START_DEADLINE / 2);
}

fn command(servers: &Servers, port: u16, supply_url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ride-management"));
    command
        .env("DATABASE_URL", servers.database_url(ROLE))
        .env("NATS_URL", servers.nats.url())
        .env("QUOTE_KEY", QUOTE_KEY)
        .env("SUPPLY_URL", supply_url)
        .env("HTTP_ADDR", format!("127.0.0.1:{port}"))
        .env("GRPC_ADDR", "127.0.0.1:0")
        .env("RUST_LOG", "off");
    command
}
