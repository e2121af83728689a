//! Lanes: each a task with a connection, that serves a queue in batches.

mod read;
mod round;
mod write;

pub(crate) use read::read;
pub(crate) use write::write;

use std::future::Future;
use std::time::Duration;

use crate::link::Link;
use crate::shared::{Shared, Up};

/// How often a lane looks at the time while it waits for an answer.
const TICK: Duration = Duration::from_millis(100);

/// Why a lane gives its connection up.
#[derive(Debug)]
pub(crate) struct Lost(pub(crate) String);

/// After how long without an answer another connection is tried.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How long it takes at most until that is tried again.
const SILENCE_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Waits for `work` on `link`, and calls `tick` now and then until it is done.
///
/// # Errors
/// When the server is silent while another connection can be had: it may be frozen, and another be promoted. Where none
/// can be had there is nothing better than to wait on. Also when another is known to be promoted: then what this one
/// says is not worth anything.
async fn ticking<T>(
    shared: &Shared,
    link: &Link,
    up: &Up,
    work: impl Future<Output = T>,
    mut tick: impl FnMut(),
) -> Result<T, Lost> {
    let mut work = std::pin::pin!(work);
    let mut other = std::pin::pin!(another(shared, up));
    loop {
        tokio::select! {
            biased;
            done = &mut work => {
                up.answers();
                return current(shared, link).map(|()| done);
            }
            () = &mut other => {
                shared.connector.cancel(link).await;
                return Err(Lost("it does not answer, and another connection does".to_owned()));
            }
            () = tokio::time::sleep(TICK) => tick(),
        }
        current(shared, link)?;
    }
}

/// # Errors
/// When another server was promoted.
fn current(shared: &Shared, link: &Link) -> Result<(), Lost> {
    if shared.connector.is_outdated(link) {
        return Err(Lost("another server was promoted".to_owned()));
    }
    Ok(())
}

/// Returns once the server has been silent and another connection can be had.
async fn another(shared: &Shared, up: &Up) {
    let mut pause = SILENCE_MAX;
    loop {
        tokio::time::sleep(pause).await;
        shared.connector.is_silent();
        match shared.connector.connect().await {
            Ok(_) => return,
            Err(error) => up.is_silent(&error),
        }
        pause = (pause * 2).min(SILENCE_PAUSE_MAX);
    }
}
