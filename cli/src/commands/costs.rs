//! `surge costs`: the processor time of a position report, a change of status, a quote and a ride,
//! in each process that works for it.
//!
//! The command calls the public APIs of the stack that runs here as fast as it answers, and reads
//! the processor times of its processes from the operating system. The load itself runs in this
//! process and is not counted. The use of the idle stack is measured first and subtracted.

use std::{
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use city::Client;
use comfy_table::Cell;
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    cli::CostsArgs,
    stack::{EXAMPLE_TRIP, Part, RunningStack, url},
    terminal::{align_numbers, note, say, table},
};

const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Calls under way at once: enough to keep two processors busy.
const UNDER_WAY: usize = 8;

/// Drivers who report positions; dispatch gives the rides to them.
const DRIVERS: usize = 400;

/// Positions in one body, as a gateway sends them.
const BATCH: usize = 100;

/// The parts with a column in the table.
const COUNTED: [Part; 5] = [
    Part::DriverManagement,
    Part::RideManagement,
    Part::PriceOptimization,
    Part::Postgres,
    Part::Nats,
];

/// What one call does.
#[derive(Clone, Copy)]
enum Work {
    Nothing,
    Position,
    Positions,
    Status,
    Quote,
    Ride,
}

/// Processor time of each part, in microseconds.
type Times = [f64; COUNTED.len()];

struct Exchange {
    client: Client,
    record: RunningStack,
    drivers: Vec<Uuid>,
}

pub(crate) async fn run(args: &CostsArgs, state_dir: &Path) -> anyhow::Result<ExitCode> {
    let record = RunningStack::meant(state_dir)?;
    let exchange = Exchange {
        client: Client::new(CALL_LIMIT),
        record,
        drivers: (0..DRIVERS).map(|_| Uuid::now_v7()).collect(),
    };
    let lasting = Duration::from_secs(args.seconds);
    exchange.send_drivers("idle").await?;
    note("measuring: the idle stack …");
    let (_, idle, idle_seconds) = exchange.measure(Work::Nothing, lasting).await?;
    let idle_rate = idle.map(|used| used / idle_seconds);

    let mut costs = table([
        "us of processor time for one",
        "a second",
        "driver-management",
        "ride-management",
        "price-optimization",
        "PostgreSQL",
        "NATS",
        "all",
    ]);
    for (name, work, per_call) in [
        ("position, alone", Work::Position, 1),
        ("position, of 100 together", Work::Positions, BATCH),
        ("status change", Work::Status, 1),
        ("quote (events)", Work::Quote, 1),
        ("ride: quote to drop-off", Work::Ride, 1),
    ] {
        note(format_args!("measuring: {name} …"));
        let (calls, used, seconds) = exchange.measure(work, lasting).await?;
        let done = (calls * per_call as u64) as f64;
        ensure!(done > 0.0, "the stack answered no call");
        let each: Vec<f64> = used
            .iter()
            .zip(idle_rate)
            .map(|(used, idle)| (used - idle * seconds) / done)
            .collect();
        let all: f64 = each.iter().sum();
        let mut row = vec![Cell::new(name), Cell::new(format!("{:.0}", done / seconds))];
        row.extend(each.iter().map(|us| Cell::new(format!("{us:.1}"))));
        row.push(Cell::new(format!("{all:.1}")));
        costs.add_row(row);
    }
    exchange.send_drivers("offline").await?;
    align_numbers(&mut costs);
    say(costs)?;
    say(format_args!(
        "the idle stack uses {:.1} % of one processor",
        idle_rate.iter().sum::<f64>() / 10_000.0
    ))?;
    Ok(ExitCode::SUCCESS)
}

impl Exchange {
    /// Repeats the work for `lasting`. Returns the number of calls, the processor time that each
    /// part used, and the seconds that passed.
    async fn measure(&self, work: Work, lasting: Duration) -> anyhow::Result<(u64, Times, f64)> {
        let (began, before) = (Instant::now(), self.times()?);
        let done = AtomicU64::new(0);
        let until = began + lasting;
        if let Work::Nothing = work {
            tokio::time::sleep_until(until).await;
        } else {
            let callers = (0..UNDER_WAY).map(|caller| self.work(work, caller, until, &done));
            try_join_all(callers).await?;
        }
        let after = self.times()?;
        let used = std::array::from_fn(|part| after[part] - before[part]);
        Ok((done.into_inner(), used, began.elapsed().as_secs_f64()))
    }

    /// One of several callers. Each has drivers of its own.
    async fn work(
        &self,
        work: Work,
        caller: usize,
        until: Instant,
        done: &AtomicU64,
    ) -> anyhow::Result<()> {
        let own: Vec<Uuid> = self
            .drivers
            .iter()
            .skip(caller)
            .step_by(UNDER_WAY)
            .copied()
            .collect();
        for (turn, driver) in own.iter().cycle().enumerate() {
            if Instant::now() >= until {
                break;
            }
            match work {
                Work::Nothing => {}
                Work::Position => self.positions(&[*driver], turn).await?,
                Work::Positions => {
                    let batch: Vec<Uuid> = own.iter().cycle().take(BATCH).copied().collect();
                    self.positions(&batch, turn).await?;
                }
                Work::Status => self.report(*driver, "idle", turn).await?,
                Work::Quote => drop(self.quote().await?),
                Work::Ride => self.ride(turn).await?,
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn send_drivers(&self, status: &str) -> anyhow::Result<()> {
        for some in self.drivers.chunks(UNDER_WAY) {
            try_join_all(some.iter().map(|driver| self.report(*driver, status, 0))).await?;
        }
        Ok(())
    }

    async fn positions(&self, drivers: &[Uuid], turn: usize) -> anyhow::Result<()> {
        let report = |driver: &Uuid| json!({"driver_id": driver, "position": place(turn)});
        let positions: Vec<Value> = drivers.iter().map(report).collect();
        let url = format!("{}/v1/positions", self.edge(0));
        let answer = self
            .client
            .post(&url, &json!({"positions": positions}))
            .await?;
        ensure!(answer.status.is_success(), "{}", answer.excerpt());
        Ok(())
    }

    async fn report(&self, driver: Uuid, status: &str, turn: usize) -> anyhow::Result<()> {
        let url = format!("{}/v1/drivers/{driver}", self.edge(0));
        let report = json!({"status": status, "position": place(turn)});
        let answer = self.client.put(&url, &report).await?;
        ensure!(answer.status.is_success(), "{}", answer.excerpt());
        Ok(())
    }

    async fn quote(&self) -> anyhow::Result<Value> {
        let request = http::Request::post(format!("{}/v1/quotes", self.edge(2)))
            .header("content-type", "application/json")
            .header("surge-dataflow", "events")
            .body(EXAMPLE_TRIP.to_owned().into())?;
        let answer = self.client.call(request).await?;
        ensure!(answer.status.is_success(), "{}", answer.excerpt());
        Ok(answer.json()?)
    }

    /// From the quote to the drop-off; the driver is back at the station at once.
    async fn ride(&self, turn: usize) -> anyhow::Result<()> {
        let quote = self.quote().await?;
        let trip: Value = serde_json::from_str(EXAMPLE_TRIP)?;
        let wish = json!({
            "rider_id": Uuid::now_v7(),
            "quote": quote["token"],
            "pickup": trip["pickup"],
            "dropoff": trip["dropoff"],
        });
        let url = format!("{}/v1/rides", self.edge(1));
        let answer = self.client.post(&url, &wish).await?;
        ensure!(answer.status.is_success(), "{}", answer.excerpt());
        let ride: Value = answer.json()?;
        let driver = ride["driver_id"].as_str().context("no driver was near")?;
        let driver = driver.parse()?;
        self.report(driver, "on_trip", turn).await?;
        self.report(driver, "idle", turn).await
    }

    /// The first replica of a service.
    fn edge(&self, service: usize) -> String {
        url(self.record.ports.http[service][0])
    }

    fn times(&self) -> anyhow::Result<Times> {
        let mut times = Times::default();
        for (member, pid) in &self.record.parts {
            let counted = COUNTED.iter().position(|part| *part == member.part);
            if let (Some(part), Some(pid)) = (counted, pid) {
                times[part] += processor_us(*pid)?;
            }
        }
        Ok(times)
    }
}

/// Places around Grand Central Terminal, so that a driver who reports has moved.
fn place(turn: usize) -> Value {
    json!({"lat": 40.7527 + (turn % 10) as f64 * 1e-5, "lon": -73.9772})
}

/// Processor time of a process and of its children, running and ended.
#[cfg(target_os = "linux")]
fn processor_us(pid: u32) -> anyhow::Result<f64> {
    use procfs::process::Process;
    let process = |pid| Process::new(i32::try_from(pid)?).map_err(anyhow::Error::from);
    let ticks = |process: &Process| -> anyhow::Result<f64> {
        let stat = process.stat()?;
        let of_ended_children = stat.cutime + stat.cstime;
        Ok((stat.utime + stat.stime) as f64 + of_ended_children as f64)
    };
    let own = process(pid).with_context(|| format!("process {pid} has ended"))?;
    let children = own.task_main_thread().and_then(|thread| thread.children());
    let children = children.unwrap_or_default().into_iter();
    let running: f64 = children
        .filter_map(|child| ticks(&process(child).ok()?).ok())
        .sum();
    Ok((ticks(&own)? + running) * 1e6 / procfs::ticks_per_second() as f64)
}

#[cfg(not(target_os = "linux"))]
fn processor_us(_: u32) -> anyhow::Result<f64> {
    anyhow::bail!("processor time of other processes is read from /proc, which only Linux has")
}
