//! Several replicas on one database: every driver counts once, is sent once, and whoever dies or hangs is replaced.

use std::{
    collections::HashSet,
    process::{Child, Command},
    time::{Duration, Instant},
};

use chrono::Utc;
use feeds::replicas::{self, Journal};
use futures::future::join_all;
use marketplace::zone::Zone;
use platform::nats;
use serde_json::json;
use sqlx::Connection as _;
use surge_proto::subjects::{SUPPLY, SUPPLY_WATERMARK};
use tonic::Code;
use uuid::Uuid;

use crate::{
    process::serving,
    support::{Running, Stand, eventually, financial_district, grand_central, waiting_for_locks},
};

/// A successor begins within the term of a lease and one look at it; the rest is for a busy machine.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(5);

/// The least silence after a sudden death: a term of two seconds, of which half a second may have passed, and a margin. If
/// two replicas told the same levels, there would be none.
const LEAST_SILENCE: Duration = Duration::from_secs(1);

async fn three(stand: &Stand) -> [Running; 3] {
    [
        stand.service().await,
        stand.service().await,
        stand.service().await,
    ]
}

async fn stop(services: impl IntoIterator<Item = Running>) {
    for service in services {
        service.stop().await;
    }
}

/// The idle drivers of two zones and the predicted supply of them, as a replica knows them.
async fn known(service: &Running) -> (Vec<u64>, Vec<f64>) {
    let zones = [grand_central(), financial_district()].map(Zone::at);
    let mut idle = Vec::new();
    for zone in zones {
        idle.push(service.supply(zone).await["idle_drivers"].as_u64().unwrap());
    }
    (idle, service.predicted(&zones).await.unwrap())
}

#[tokio::test]
async fn every_driver_counts_once_whichever_replica_hears_of_it() {
    let stand = Stand::start().await;
    let services = three(&stand).await;
    let mut drivers = Vec::new();
    for number in 0..12 {
        let service = &services[number % 3];
        drivers.push(service.driver_goes_online(grand_central()).await);
    }
    for service in &services {
        eventually("every replica knows all drivers", async || {
            (known(service).await.0 == [12, 0]).then_some(())
        })
        .await;
    }

    // Each is heard of by another replica now: six move, three leave, and one is sent downtown.
    for (number, driver) in drivers.iter().enumerate() {
        let service = &services[(number + 1) % 3];
        match number {
            0..6 => {
                let report =
                    json!({"positions": [{"driver_id": driver, "position": financial_district()}]});
                let answer = service.rest.post("/v1/positions", report).await;
                assert_eq!(answer.body, json!({"accepted": 1, "ignored": 0}));
            }
            6..9 => {
                service.driver_is(*driver, "offline", grand_central()).await;
            }
            _ => {}
        }
    }
    // A replica that had not heard of the moves yet might send a driver who is downtown by now.
    for service in &services {
        eventually("every replica knows who moved and who left", async || {
            (known(service).await.0 == [3, 6]).then_some(())
        })
        .await;
    }
    let sent = services[2]
        .dispatch_patiently(Uuid::now_v7(), grand_central(), financial_district())
        .await;
    assert!(sent.is_some());
    for service in &services {
        eventually("every replica knows it all", async || {
            (known(service).await == (vec![2, 6], vec![2.0, 7.0])).then_some(())
        })
        .await;
    }
    stop(services).await;
}

#[tokio::test]
async fn a_change_that_commits_late_is_not_missed() {
    let stand = Stand::start().await;
    let services = three(&stand).await;
    let driver = services[0].driver_goes_online(grand_central()).await;
    for service in &services {
        eventually("the driver is known", async || {
            (known(service).await.0 == [1, 0]).then_some(())
        })
        .await;
    }

    // An operator's transaction begins before what comes next, and ends after it.
    let mut operator = stand.connection_of("driver_management").await;
    let mut late = operator.begin().await.unwrap();
    sqlx::query("UPDATE driver SET status = 'offline', version = version + 1 WHERE driver_id = $1")
        .bind(driver)
        .execute(&mut *late)
        .await
        .unwrap();
    services[1].driver_goes_online(financial_district()).await;
    for service in &services {
        eventually("what began later is known", async || {
            (known(service).await.0 == [1, 1]).then_some(())
        })
        .await;
    }
    late.commit().await.unwrap();
    for service in &services {
        eventually("what ended later is known", async || {
            (known(service).await.0 == [0, 1]).then_some(())
        })
        .await;
    }
    stop(services).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_never_send_one_driver_to_two_rides() {
    const DRIVERS: usize = 20;
    const RIDES: usize = 30;
    let stand = Stand::start().await;
    let services = three(&stand).await;
    for number in 0..DRIVERS {
        services[number % 3]
            .driver_goes_online(grand_central())
            .await;
    }
    for service in &services {
        eventually("all drivers are known", async || {
            (known(service).await.0 == [DRIVERS as u64, 0]).then_some(())
        })
        .await;
    }

    // Every ride asks every replica, as a dispatcher does that had no answer from the one before.
    let rides: Vec<Uuid> = (0..RIDES).map(|_| Uuid::now_v7()).collect();
    let questions = rides.iter().flat_map(|ride| {
        services.iter().map(async |service| {
            let (pickup, dropoff) = (grand_central(), financial_district());
            let sent = service.dispatch_patiently(*ride, pickup, dropoff).await;
            sent.map(|driver| (*ride, driver.driver_id))
        })
    });
    let answers: HashSet<(Uuid, String)> =
        join_all(questions).await.into_iter().flatten().collect();
    let served: HashSet<&Uuid> = answers.iter().map(|(ride, _)| ride).collect();
    let drivers: HashSet<&String> = answers.iter().map(|(_, driver)| driver).collect();
    assert_eq!(served.len(), answers.len(), "a ride got two drivers");
    assert_eq!(drivers.len(), answers.len(), "two rides share a driver");
    assert_eq!(
        drivers.len(),
        DRIVERS,
        "a driver stayed idle while a ride went without"
    );
    for service in &services {
        eventually("nobody is idle", async || {
            (known(service).await.0 == [0, 0]).then_some(())
        })
        .await;
    }
    stop(services).await;
}

#[tokio::test]
async fn of_two_that_end_together_the_word_of_one_stays() {
    let stand = Stand::start().await;
    stand.service().await.stop().await;
    let pool = stand.pool(4);
    let both = [Uuid::now_v7(), Uuid::now_v7()];
    let mut connection = pool.acquire().await.unwrap();
    for replica in both {
        replicas::report(&mut connection, replica, Utc::now())
            .await
            .unwrap();
    }

    // Both look before either has left: nobody can delete a row that somebody holds.
    let mut held = connection.begin().await.unwrap();
    sqlx::query("SELECT FROM replica FOR UPDATE")
        .execute(&mut *held)
        .await
        .unwrap();
    let leave = |replica| {
        let pool = pool.clone();
        tokio::spawn(async move { replicas::leave(&pool, replica).await })
    };
    let leaving = both.map(leave);
    let mut admin = stand.admin().await;
    eventually("both wait", async || {
        (waiting_for_locks(&mut admin).await == 2).then_some(())
    })
    .await;
    held.rollback().await.unwrap();
    for left in join_all(leaving).await {
        left.unwrap().unwrap();
    }
    let words = "SELECT ended FROM replica WHERE replica_id = ANY($1)";
    let words = sqlx::query_scalar(words).bind(both).fetch_all(&pool);
    let words: Vec<bool> = words.await.unwrap();
    assert_eq!(words, [true]);
}

#[tokio::test]
async fn the_last_word_stays_until_somebody_speaks_again() {
    let stand = Stand::start().await;
    stand.service().await.stop().await;
    let pool = stand.pool(1);
    let long_ago = "UPDATE replica SET seen_at = now() - interval '1 hour'";
    sqlx::query(long_ago).execute(&pool).await.unwrap();
    let words = async || -> i64 {
        let words = "SELECT count(*) FROM supply_watermark WHERE as_of > 'epoch'";
        sqlx::query_scalar(words).fetch_one(&pool).await.unwrap()
    };

    let newcomer = Uuid::now_v7();
    Journal::of(newcomer).clean(&pool).await.unwrap();
    assert_eq!(words().await, 1, "nobody else has a word");
    let mut connection = pool.acquire().await.unwrap();
    replicas::report(&mut connection, newcomer, Utc::now())
        .await
        .unwrap();
    drop(connection);
    Journal::of(newcomer).clean(&pool).await.unwrap();
    let known = sqlx::query_scalar("SELECT replica_id FROM replica").fetch_all(&pool);
    let known: Vec<Uuid> = known.await.unwrap();
    assert_eq!(known, [newcomer]);
}

#[tokio::test]
async fn without_postgres_every_replica_goes_on_with_what_it_knows() {
    let mut stand = Stand::start().await;
    let [one, other] = [stand.service().await, stand.service().await];
    let driver = one.driver_goes_online(grand_central()).await;
    eventually("the driver is known", async || {
        (known(&other).await.0 == [1, 0]).then_some(())
    })
    .await;
    stand.postgres.kill().await;

    let as_of = async || other.supply(Zone::at(grand_central())).await["as_of"].clone();
    let last_heard = eventually("nothing more is heard", async || {
        let before = as_of().await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        (before == as_of().await).then_some(before)
    })
    .await;
    assert_eq!(known(&other).await, (vec![1, 0], vec![1.0, 0.0]));
    assert_eq!(as_of().await, last_heard, "it tells when it heard last");
    let refused = other.dispatch(Uuid::now_v7(), grand_central(), financial_district());
    assert_eq!(refused.await.unwrap_err().code(), Code::Unavailable);

    stand.postgres.restart().await.unwrap();
    one.driver_is(driver, "offline", grand_central()).await;
    eventually("it hears again", async || {
        (known(&other).await.0 == [0, 0] && as_of().await != last_heard).then_some(())
    })
    .await;
    stop([one, other]).await;
}

#[tokio::test]
async fn one_replica_tells_the_levels_and_another_takes_over_when_it_hangs_leaves_or_dies() {
    let stand = Stand::start().await;
    let mut process = serving(&stand).await;
    let watermarks = Watermarks::of(&stand).await;
    watermarks.next().await;
    let service = stand.service().await;
    service.driver_goes_online(grand_central()).await;

    signal(&process, "STOP");
    let silence = watermarks.silence().await;
    assert!(silence >= LEAST_SILENCE, "two told levels: {silence:?}");
    assert!(silence <= TAKEN_OVER_WITHIN, "hung for {silence:?}");
    signal(&process, "CONT");

    service.stop().await;
    let left = Instant::now();
    watermarks.next().await;
    let silence = left.elapsed();
    assert!(silence <= TAKEN_OVER_WITHIN, "gone for {silence:?}");

    let service = stand.service().await;
    process.kill().unwrap();
    process.wait().unwrap();
    let silence = watermarks.silence().await;
    assert!(silence >= LEAST_SILENCE, "two told levels: {silence:?}");
    assert!(silence <= TAKEN_OVER_WITHIN, "dead for {silence:?}");
    service.stop().await;
}

fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &process.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// The watermarks of the feed, as they come.
struct Watermarks(async_nats::jetstream::stream::Stream);

impl Watermarks {
    async fn of(stand: &Stand) -> Self {
        let client = nats::connect(&stand.nats.url(), "watermarks")
            .await
            .unwrap();
        let jetstream = nats::jetstream(client);
        let stream = eventually("the stream of supply", async || {
            jetstream.get_stream(SUPPLY.name).await.ok()
        });
        Self(stream.await)
    }

    async fn last(&self) -> Option<u64> {
        let last = self.0.get_last_raw_message_by_subject(SUPPLY_WATERMARK);
        last.await.ok().map(|message| message.sequence)
    }

    /// Waits for one that is not there yet.
    async fn next(&self) {
        let known = self.last().await;
        eventually("a new watermark", async || {
            (self.last().await > known).then_some(())
        })
        .await;
    }

    /// How long the longest pause is that begins within the next moment, from now on.
    async fn silence(&self) -> Duration {
        let began = Instant::now();
        let (mut last, mut at, mut longest) = (self.last().await, began, Duration::ZERO);
        while longest < LEAST_SILENCE && began.elapsed() < 2 * TAKEN_OVER_WITHIN {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let newest = self.last().await;
            if newest != last {
                longest = longest.max(at.elapsed());
                (last, at) = (newest, Instant::now());
            }
        }
        longest
    }
}
