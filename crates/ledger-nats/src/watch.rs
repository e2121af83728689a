//! Conclusions by other gateways: the stream tells what it has stored, to those who wait for it.
//!
//! A stored message is published again, without its payload, under a subject that nobody listens to unless he waits. As a
//! message may be lost, whoever waits has the record looked at once a second besides: one look for all who wait here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use semel_core::scope::EffectId;
use tokio::task::AbortHandle;

use crate::shared::Shared;

/// How often a record is looked at that somebody waits for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Which effects are waited for in this process.
#[derive(Default)]
pub(crate) struct Watches(Arc<Mutex<HashMap<EffectId, Watched>>>);

struct Watched {
    waiting: usize,
    task: AbortHandle,
}

/// Somebody waits as long as it is held.
pub(crate) struct Watch {
    id: EffectId,
    among: Arc<Mutex<HashMap<EffectId, Watched>>>,
}

impl Watches {
    /// From now on those who wait for `id` are woken when the stream stores something for it. Returns when the server
    /// that this process is connected to knows: what is looked at afterwards misses nothing.
    pub(crate) async fn watch(&self, shared: &Arc<Shared>, id: EffectId) -> Watch {
        let begun = || Watch { id, among: Arc::clone(&self.0) };
        if let Some(watched) = lock(&self.0).get_mut(&id) {
            watched.waiting += 1;
            return begun();
        }
        // Sent on the connection before any look-up that follows.
        let told = shared.link.client.subscribe(shared.names.told(id)).await.ok();
        let shared = Arc::clone(shared);
        let task = async move {
            let mut told = told;
            let mut seen = None;
            loop {
                let news = async {
                    let heard = match &mut told {
                        Some(told) => told.next().await,
                        None => None,
                    };
                    // Without a subscription only looking helps.
                    if heard.is_none() {
                        std::future::pending::<()>().await;
                    }
                };
                if tokio::time::timeout(LOOK_EVERY, news).await.is_ok() {
                    shared.waiters.wake(id);
                    continue;
                }
                let Ok(number) = shared.number_of(id, LOOK_EVERY).await else { continue };
                if number.is_none() || number != seen {
                    shared.waiters.wake(id);
                }
                seen = number;
            }
        };
        let mut watches = lock(&self.0);
        // Another may have begun meanwhile: then its task is enough.
        let watched =
            watches.entry(id).or_insert_with(|| Watched { waiting: 0, task: tokio::spawn(task).abort_handle() });
        watched.waiting += 1;
        begun()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watches = lock(&self.among);
        if let Some(watched) = watches.get_mut(&self.id) {
            watched.waiting -= 1;
            if watched.waiting == 0 {
                watched.task.abort();
                watches.remove(&self.id);
            }
        }
    }
}

fn lock(watches: &Mutex<HashMap<EffectId, Watched>>) -> MutexGuard<'_, HashMap<EffectId, Watched>> {
    // Every section leaves the counts whole.
    watches.lock().unwrap_or_else(PoisonError::into_inner)
}
