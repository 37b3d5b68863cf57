//! Several replicas on one database: every driver counts once and is sent once, and a replica that
//! dies or hangs is replaced.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use async_nats::jetstream::stream::Stream;
use chrono::Utc;
use feeds::change_log::{self, ChangeLog};
use futures::future::join_all;
use marketplace::zone::Zone;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};
use surge_proto::subjects::{SUPPLY, SUPPLY_WATERMARK};
use test_harness::{Servers, downtown, eventually, midtown, signal, until};
use tonic::Code;
use uuid::Uuid;

use crate::{
    process::ready_process,
    support::{DriverManagement, ROLE},
};

/// A successor begins within the term of a lease and one attempt to get it; the rest is for a busy
/// machine.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(5);

/// The shortest silence after a sudden death: a term of two seconds, of which half a second may
/// have passed, and a margin. If two replicas published the same levels, there would be none.
const LEAST_SILENCE: Duration = Duration::from_secs(1);

async fn three(servers: &Servers) -> [DriverManagement; 3] {
    [
        DriverManagement::start(servers).await,
        DriverManagement::start(servers).await,
        DriverManagement::start(servers).await,
    ]
}

async fn stop(services: impl IntoIterator<Item = DriverManagement>) {
    for service in services {
        service.stop().await;
    }
}

/// The drivers who are idle in midtown and downtown, as a replica knows them.
async fn idle(service: &DriverManagement) -> [u64; 2] {
    [
        service.idle_at(midtown()).await,
        service.idle_at(downtown()).await,
    ]
}

async fn all_know(services: &[DriverManagement], expected: [u64; 2]) {
    for service in services {
        until("every replica knows the idle drivers", async || {
            idle(service).await == expected
        })
        .await;
    }
}

#[tokio::test]
async fn every_driver_counts_once_in_each_replica() {
    let servers = Servers::start().await;
    let services = three(&servers).await;
    let mut drivers = Vec::new();
    for number in 0..12 {
        let service = &services[number % 3];
        drivers.push(service.driver_goes_online(midtown()).await);
    }
    all_know(&services, [12, 0]).await;

    // Each now reports to another replica: six move and three leave.
    for (number, driver) in drivers.iter().enumerate() {
        let service = &services[(number + 1) % 3];
        match number {
            0..6 => {
                let answer = service.driver_moves(*driver, downtown()).await;
                assert_eq!(answer, json!({"accepted": 1, "ignored": 0}));
            }
            6..9 => {
                service.driver_is(*driver, "offline", midtown()).await;
            }
            _ => {}
        }
    }
    // A replica that does not know of the moves yet might send a driver who is downtown by now.
    all_know(&services, [3, 6]).await;
    let sent = services[2].dispatch_patiently(Uuid::now_v7()).await;
    assert!(sent.is_some());
    all_know(&services, [2, 6]).await;
    for service in &services {
        until("every replica predicts the same supply", async || {
            service.predicted().await == [2.0, 7.0]
        })
        .await;
    }
    stop(services).await;
}

#[tokio::test]
async fn late_commit_is_not_missed() {
    let servers = Servers::start().await;
    let services = three(&servers).await;
    let driver = services[0].driver_goes_online(midtown()).await;
    all_know(&services, [1, 0]).await;

    // An operator's transaction begins before the next change, and ends after it.
    let mut operator = servers.connection_as(ROLE).await;
    let mut late = operator.begin().await.unwrap();
    sqlx::query("UPDATE driver SET status = 'offline', version = version + 1 WHERE driver_id = $1")
        .bind(driver)
        .execute(&mut *late)
        .await
        .unwrap();
    services[1].driver_goes_online(downtown()).await;
    all_know(&services, [1, 1]).await;
    late.commit().await.unwrap();
    all_know(&services, [0, 1]).await;
    stop(services).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_never_share_a_driver_between_rides() {
    const DRIVERS: usize = 20;
    const RIDES: usize = 30;
    let servers = Servers::start().await;
    let services = three(&servers).await;
    for number in 0..DRIVERS {
        services[number % 3].driver_goes_online(midtown()).await;
    }
    all_know(&services, [DRIVERS as u64, 0]).await;

    // Every ride asks every replica, as a dispatcher does that had no answer from the one before.
    let rides: Vec<Uuid> = (0..RIDES).map(|_| Uuid::now_v7()).collect();
    let requests = rides.iter().flat_map(|ride| {
        services.iter().map(async |service| {
            let sent = service.dispatch_patiently(*ride).await;
            sent.map(|driver| (*ride, driver.driver_id))
        })
    });
    let answers = join_all(requests).await.into_iter().flatten();
    let answers: HashSet<(Uuid, String)> = answers.collect();
    let served: HashSet<&Uuid> = answers.iter().map(|(ride, _)| ride).collect();
    let drivers: HashSet<&String> = answers.iter().map(|(_, driver)| driver).collect();
    assert_eq!(served.len(), answers.len(), "a ride got two drivers");
    assert_eq!(drivers.len(), answers.len(), "two rides share a driver");
    assert_eq!(drivers.len(), DRIVERS, "a driver stayed idle");
    all_know(&services, [0, 0]).await;
    stop(services).await;
}

#[tokio::test]
async fn last_report_stays_when_two_leave() {
    let servers = Servers::start().await;
    DriverManagement::start(&servers).await.stop().await;
    let pool = servers.pool_as(ROLE, 4);
    let both = [Uuid::now_v7(), Uuid::now_v7()];
    let mut connection = pool.acquire().await.unwrap();
    for replica in both {
        let report = change_log::report_as_of(&mut connection, replica, Utc::now());
        report.await.unwrap();
    }

    // Both look before either has left: neither can delete a row that another transaction holds.
    let mut held = connection.begin().await.unwrap();
    let hold = sqlx::query("SELECT FROM replica FOR UPDATE");
    hold.execute(&mut *held).await.unwrap();
    let leaving = both.map(|replica| {
        let pool = pool.clone();
        tokio::spawn(async move { change_log::leave(&pool, replica).await })
    });
    let mut admin = servers.admin().await;
    until("both wait", async || {
        waiting_for_locks(&mut admin).await == 2
    })
    .await;
    held.rollback().await.unwrap();
    for left in join_all(leaving).await {
        left.unwrap().unwrap();
    }
    let ended = "SELECT ended FROM replica WHERE replica_id = ANY($1)";
    let ended = sqlx::query_scalar(ended).bind(both).fetch_all(&pool);
    let ended: Vec<bool> = ended.await.unwrap();
    assert_eq!(ended, [true]);
}

#[tokio::test]
async fn last_report_stays_until_the_next() {
    let servers = Servers::start().await;
    DriverManagement::start(&servers).await.stop().await;
    let pool = servers.pool_as(ROLE, 1);
    let long_ago = "UPDATE replica SET seen_at = now() - interval '1 hour'";
    sqlx::query(long_ago).execute(&pool).await.unwrap();
    let reports = async || -> i64 {
        let reports = "SELECT count(*) FROM supply_watermark WHERE as_of > 'epoch'";
        sqlx::query_scalar(reports).fetch_one(&pool).await.unwrap()
    };

    let newcomer = Uuid::now_v7();
    ChangeLog::new(pool.clone(), newcomer)
        .prune()
        .await
        .unwrap();
    assert_eq!(reports().await, 1, "no other replica has reported");
    let mut connection = pool.acquire().await.unwrap();
    let report = change_log::report_as_of(&mut connection, newcomer, Utc::now());
    report.await.unwrap();
    drop(connection);
    ChangeLog::new(pool.clone(), newcomer)
        .prune()
        .await
        .unwrap();
    let known = sqlx::query_scalar("SELECT replica_id FROM replica").fetch_all(&pool);
    let known: Vec<Uuid> = known.await.unwrap();
    assert_eq!(known, [newcomer]);
}

#[tokio::test]
async fn replicas_go_on_without_postgres() {
    let mut servers = Servers::start().await;
    let one = DriverManagement::start(&servers).await;
    let services = [DriverManagement::start(&servers).await];
    let driver = one.driver_goes_online(midtown()).await;
    all_know(&services, [1, 0]).await;
    servers.postgres.kill().await;

    let [other] = &services;
    let as_of = async || other.supply(Zone::at(midtown())).await["as_of"].clone();
    let last_read = eventually("the supply's as_of stands still", async || {
        let before = as_of().await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        (before == as_of().await).then_some(before)
    })
    .await;
    assert_eq!(idle(other).await, [1, 0]);
    assert_eq!(other.predicted().await, [1.0, 0.0]);
    assert_eq!(as_of().await, last_read, "its age says so");
    let refused = other.dispatch(Uuid::now_v7()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);

    servers.postgres.restart().await.unwrap();
    one.driver_is(driver, "offline", midtown()).await;
    all_know(&services, [0, 0]).await;
    until("the supply's as_of moves on", async || {
        as_of().await != last_read
    })
    .await;
    one.stop().await;
    stop(services).await;
}

/// A server that crashes forgets the numbers of transactions that it has not written down, and
/// gives them out once more.
#[tokio::test]
async fn reused_transaction_numbers_are_not_missed() {
    let mut servers = Servers::start().await;
    DriverManagement::start(&servers).await.stop().await;
    let pool = servers.pool_as(ROLE, 2);
    let mut change_log = ChangeLog::new(pool.clone(), Uuid::now_v7());
    change_log.read().await.unwrap();
    let mut connection = servers.connection_as(ROLE).await;
    // It would write the numbers down within moments.
    let wal_writer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
    let mut admin = servers.admin().await;
    let wal_writer = sqlx::query_scalar::<_, i32>(wal_writer).fetch_one(&mut admin);
    let wal_writer = wal_writer.await.unwrap().cast_unsigned();
    signal(wal_writer, "STOP");
    let not_written_down = "DO $$ BEGIN
        FOR number IN 1..100 LOOP PERFORM pg_current_xact_id(); ROLLBACK; END LOOP;
    END $$";
    connection.execute(not_written_down).await.unwrap();
    let changes = change_log.read().await.unwrap();
    change_log.commit_offset(changes);
    assert!(!change_log.needs_full_read());
    let watermark = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
    let watermark: i64 = sqlx::query_scalar(watermark)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    servers.postgres.kill().await;
    servers.postgres.restart().await.unwrap();

    let mut connection = servers.connection_as(ROLE).await;
    let write = "INSERT INTO journal (changed_in, changed_by, ids)
                 VALUES (pg_current_xact_id(), 'another replica', ARRAY[gen_random_uuid()])
                 RETURNING changed_in::text::bigint";
    let number: i64 = sqlx::query_scalar(write)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(number < watermark, "the server forgot nothing");
    let is_found = eventually("the change log is read", async || {
        let reads_all_drivers = change_log.needs_full_read();
        let changes = change_log.read().await.ok()?;
        Some(reads_all_drivers || !changes.ids.is_empty())
    })
    .await;
    assert!(is_found, "an entry below the watermark is missed");
}

#[tokio::test]
async fn another_replica_takes_over_the_lease() {
    let servers = Servers::start().await;
    let mut process = ready_process(&servers).await;
    let watermarks = Watermarks::of(&servers).await;
    watermarks.next().await;
    let service = DriverManagement::start(&servers).await;
    service.driver_goes_online(midtown()).await;

    signal(process.id(), "STOP");
    let silence = watermarks.silence().await;
    assert!(silence >= LEAST_SILENCE, "two published: {silence:?}");
    assert!(silence <= TAKEN_OVER_WITHIN, "hung for {silence:?}");
    signal(process.id(), "CONT");

    service.stop().await;
    let left = Instant::now();
    watermarks.next().await;
    let silence = left.elapsed();
    assert!(silence <= TAKEN_OVER_WITHIN, "gone for {silence:?}");

    let service = DriverManagement::start(&servers).await;
    process.kill().unwrap();
    process.wait().unwrap();
    let silence = watermarks.silence().await;
    assert!(silence >= LEAST_SILENCE, "two published: {silence:?}");
    assert!(silence <= TAKEN_OVER_WITHIN, "dead for {silence:?}");
    service.stop().await;
}

/// The watermarks of the supply stream, as they come.
struct Watermarks(Stream);

impl Watermarks {
    async fn of(servers: &Servers) -> Self {
        let jetstream = servers.jetstream().await;
        let stream = eventually("there is a stream of supply", async || {
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
        until("a new watermark", async || self.last().await > known).await;
    }

    /// How long the longest pause is that begins within the next moments.
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

/// How many connections wait for a lock.
pub(crate) async fn waiting_for_locks(admin: &mut PgConnection) -> i64 {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let waiting = sqlx::query_scalar(waiting).fetch_one(admin);
    waiting.await.unwrap()
}
