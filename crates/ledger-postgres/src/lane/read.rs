//! The lane of look-ups. It has a connection to itself, so that nobody who only asks waits for a flush.

use std::collections::HashMap;
use std::sync::Arc;

use semel_core::scope::EffectId;
use semel_core::time::Timestamp;
use semel_ledger::{LedgerError, Seen};

use super::{Lost, current, ticking};
use crate::error::Failed;
use crate::link::Link;
use crate::row::Stored;
use crate::shared::{Backoff, Look, Shared, Up};
use crate::sql::Id;

/// Serves look-ups for ever.
pub(crate) async fn read(shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    loop {
        match shared.connect().await {
            Ok((mut link, up)) => {
                backoff.reset();
                shared.reader.send_replace(Some(Arc::clone(&link.client)));
                let Lost(why) = serve(&shared, &mut link, &up).await;
                shared.reader.send_replace(None);
                tracing::warn!("the connection that reads the ledger is lost: {why}");
            }
            Err(error) => tracing::warn!("the ledger cannot be read: {error}"),
        }
        shared.expire();
        backoff.wait().await;
    }
}

async fn serve(shared: &Shared, link: &mut Link, up: &Up) -> Lost {
    loop {
        let looks = tokio::select! {
            looks = shared.looks.take(|_| 1) => looks,
            () = link.closed() => return Lost("it was closed".to_owned()),
        };
        if let Err(lost) = look(shared, link, up, looks).await {
            return lost;
        }
    }
}

async fn look(shared: &Shared, link: &Link, up: &Up, looks: Vec<Look>) -> Result<(), Lost> {
    let mut ids: Vec<Id> = looks.iter().map(|look| Id(look.id)).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut watched: Vec<Id> = looks.iter().filter(|look| look.watch).map(|look| Id(look.id)).collect();
    watched.sort_unstable();
    watched.dedup();
    if let Err(lost) = current(shared, link) {
        shared.looks.give_back(looks.into_iter());
        return Err(lost);
    }
    let asking = shared.connector.statements.look(&link.client, &ids, &watched);
    let told = match ticking(shared, link, up, asking, || shared.expire()).await {
        Ok(told) => told,
        Err(lost) => {
            shared.looks.give_back(looks.into_iter());
            return Err(lost);
        }
    };
    match told {
        Ok((now, found)) => {
            shared.heard_time(now);
            answer(looks, found, now);
            Ok(())
        }
        Err(error) => match Failed::of(&error) {
            Failed::Lost(why) | Failed::Demoted(why) => {
                shared.looks.give_back(looks.into_iter());
                Err(Lost(why))
            }
            Failed::Again(_) | Failed::Late | Failed::NoRoom => {
                shared.looks.give_back(looks.into_iter());
                shared.expire();
                Ok(())
            }
            Failed::DiskFull(why) | Failed::Refused(why) => {
                for look in looks {
                    let _ = look.reply.send(Err(LedgerError::Unreachable(why.clone())));
                }
                Ok(())
            }
        },
    }
}

fn answer(looks: Vec<Look>, found: Vec<Stored>, now: Timestamp) {
    let mut by_id: HashMap<EffectId, Stored> = HashMap::with_capacity(found.len());
    for stored in found {
        let stored = match by_id.remove(&stored.id) {
            Some(other) => other.newer(stored),
            None => stored,
        };
        by_id.insert(stored.id, stored);
    }
    for Look { id, reply, room, .. } in looks {
        let record = by_id.get(&id).map_or(Ok(None), |stored| stored.standing(now));
        drop(room);
        // Whoever has gone will ask again.
        let _ = reply.send(record.map(|record| Seen { record, now }));
    }
}
