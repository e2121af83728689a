//! Lanes: each a task with a connection, that serves a queue in batches.

mod read;
mod round;
mod write;

pub(crate) use read::read;
pub(crate) use write::write;

use std::future::Future;
use std::time::Duration;

/// How often a lane looks at the time while it waits for an answer.
const TICK: Duration = Duration::from_millis(100);

/// Why a lane gives its connection up.
#[derive(Debug)]
pub(crate) struct Lost(pub(crate) String);

/// Waits for `work`, and calls `tick` now and then until it is done.
async fn ticking<T>(work: impl Future<Output = T>, mut tick: impl FnMut()) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(TICK, work.as_mut()).await {
            Ok(done) => return done,
            Err(_) => tick(),
        }
    }
}
