//! Takes rides from drivers who are long overdue at the pickup. Whether they had an accident or
//! lost their phone, the rider still stands there, and ride-management has the ride dispatched
//! anew.

use std::time::Duration;

use platform::background::WorkLoop;
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// How often to look for overdue pickups, in real time.
const EVERY: Duration = Duration::from_millis(500);

/// Steps until `shutdown`. Several replicas may do so: each driver is changed by one of them.
pub async fn run(app: App, shutdown: CancellationToken) {
    let mut work = WorkLoop::new("the search for overdue pickups", &shutdown);
    while work.next_step(EVERY).await {
        work.run(app.give_up_overdue()).await;
    }
}
