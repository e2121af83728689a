//! The lanes of commands.

use std::sync::Arc;
use std::time::Duration;

use super::round::round;
use super::{Lost, current, ticking};
use crate::command::{Apply, Stage};
use crate::error::in_words;
use crate::link::Link;
use crate::queue::BATCH_LEN_MAX;
use crate::shared::{Backoff, Shared, Up};

/// How often something is committed when there is nothing to do.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Serves commands for ever.
///
/// The one that `beats` commits something now and then also when there is nothing to do: otherwise a gateway that only
/// reads would not notice that its server is a primary no more.
pub(crate) async fn write(shared: Arc<Shared>, beats: bool) {
    let mut backoff = Backoff::default();
    let mut held: Vec<Apply> = Vec::new();
    loop {
        match shared.connect().await {
            Ok((mut link, up)) => {
                let Lost(why) = serve(&shared, (&mut link, &up), &mut held, &mut backoff, beats).await;
                tracing::warn!(commands = held.len(), "a connection that writes the ledger is lost: {why}");
            }
            Err(error) => tracing::warn!("the ledger cannot be written: {error}"),
        }
        // Another lane may have a connection.
        shared.writes.give_back(held.drain(..));
        shared.expire();
        backoff.wait().await;
    }
}

async fn serve(
    shared: &Shared,
    (link, up): (&mut Link, &Up),
    held: &mut Vec<Apply>,
    backoff: &mut Backoff,
    beats: bool,
) -> Lost {
    loop {
        if held.is_empty() {
            let taken = tokio::select! {
                taken = shared.writes.take(Apply::weight) => taken,
                () = link.closed() => return Lost("it was closed".to_owned()),
                () = tokio::time::sleep(BEAT_EVERY), if beats => Vec::new(),
            };
            if taken.is_empty() {
                if let Err(lost) = beat(shared, link, up).await {
                    return lost;
                }
                continue;
            }
            held.extend(taken);
            if let Err(lost) = current(shared, link) {
                return lost;
            }
        } else {
            held.extend(shared.writes.take_now(BATCH_LEN_MAX.saturating_sub(held.len()), Apply::weight));
        }
        if let Err(lost) = round(shared, link, up, held).await {
            return lost;
        }
        backoff.reset();
        held.retain(|apply| !matches!(apply.stage, Stage::Done));
    }
}

async fn beat(shared: &Shared, link: &Link, up: &Up) -> Result<(), Lost> {
    let beating = ticking(shared, link, up, shared.connector.statements.beat(&link.client), || shared.expire()).await?;
    if link.in_doubt() {
        return Err(Lost("a commit was not passed on to the standby".to_owned()));
    }
    beating.map_err(|error| Lost(in_words(&error)))
}
