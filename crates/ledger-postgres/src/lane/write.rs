//! The lanes of commands.

use std::sync::Arc;

use super::Lost;
use super::round::round;
use crate::command::{Apply, Stage};
use crate::link::Link;
use crate::queue::BATCH_LEN_MAX;
use crate::shared::{Backoff, Shared};

/// Serves commands for ever.
pub(crate) async fn write(shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    let mut held: Vec<Apply> = Vec::new();
    loop {
        match shared.connect().await {
            Ok((mut link, _up)) => {
                let Lost(why) = serve(&shared, &mut link, &mut held, &mut backoff).await;
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

async fn serve(shared: &Shared, link: &mut Link, held: &mut Vec<Apply>, backoff: &mut Backoff) -> Lost {
    loop {
        if held.is_empty() {
            let taken = tokio::select! {
                taken = shared.writes.take(Apply::weight) => taken,
                () = link.closed() => return Lost("it was closed".to_owned()),
            };
            held.extend(taken);
        } else {
            held.extend(shared.writes.take_now(BATCH_LEN_MAX.saturating_sub(held.len()), Apply::weight));
        }
        if let Err(lost) = round(shared, link, held).await {
            return lost;
        }
        backoff.reset();
        held.retain(|apply| !matches!(apply.stage, Stage::Done));
    }
}
