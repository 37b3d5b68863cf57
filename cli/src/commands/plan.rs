//! `surge plan`: how many processors, replicas and bytes a market of a given size needs, from the
//! costs that `surge costs` and `surge compare` measure. The table shows every factor, so that a
//! reader can check and change it.

use std::process::ExitCode;

use comfy_table::Cell;

use crate::{
    cli::PlanArgs,
    terminal::{align_numbers, say, table},
};

/// Bytes of a position between processes: an id of 16, two coordinates and a time of 8 each.
const POSITION_BYTES: f64 = 40.0;

/// One kind of work: its rate and its cost.
struct PlannedWork {
    what: &'static str,
    per_second: f64,
    us: f64,
}

pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    let positions = args.drivers / args.report_every_s;
    let rides = args.drivers * args.rides_per_driver_hour / 3_600.0;
    let workloads = [
        PlannedWork {
            what: "positions taken",
            per_second: positions,
            us: args.position_us,
        },
        PlannedWork {
            what: "positions written",
            per_second: positions,
            us: args.position_write_us,
        },
        PlannedWork {
            what: "positions followed",
            per_second: positions * f64::from(args.replicas - 1),
            us: args.position_follow_us,
        },
        PlannedWork {
            what: "rides, quote to drop-off",
            per_second: rides,
            us: args.ride_us,
        },
        PlannedWork {
            what: "quotes",
            per_second: args.quotes,
            us: args.quote_us,
        },
    ];
    say(format_args!(
        "{} drivers who report every {} s; {} quotes/s; {} rides per driver and hour; \
         {} replicas that know all drivers",
        args.drivers, args.report_every_s, args.quotes, args.rides_per_driver_hour, args.replicas
    ))?;
    let mut plan = table([
        "",
        "a second",
        "us each",
        "processors busy",
        "processors to have",
    ]);
    let mut all = 0.0;
    for PlannedWork {
        what,
        per_second,
        us,
    } in workloads
    {
        let busy = per_second * us / 1e6;
        all += busy;
        plan.add_row(row(what, Some((per_second, us)), busy, args.utilisation));
    }
    plan.add_row(row("all", None, all, args.utilisation));
    align_numbers(&mut plan);
    say(plan)?;
    say(format_args!(
        "at {:.0} % utilisation. Positions alone are {:.0} MB/s inside, {:.0} MB/s into each of {} \
         replicas.",
        args.utilisation * 100.0,
        positions * POSITION_BYTES / 1e6,
        positions * POSITION_BYTES / 1e6,
        args.replicas
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn row(what: &str, rate: Option<(f64, f64)>, busy: f64, utilisation: f64) -> Vec<Cell> {
    let (per_second, us) = rate.map_or_else(Default::default, |(per_second, us)| {
        (format!("{per_second:.0}"), format!("{us:.1}"))
    });
    vec![
        Cell::new(what),
        Cell::new(per_second),
        Cell::new(us),
        Cell::new(format!("{busy:.1}")),
        Cell::new(format!("{:.0}", (busy / utilisation).ceil())),
    ]
}
