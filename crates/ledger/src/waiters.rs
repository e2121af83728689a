//! Callers of one process that wait for an effect to be concluded.

use rustc_hash::FxHashMap;
use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use semel_core::{
    effect::{Phase, State},
    scope::EffectId,
};
use tokio::sync::Notify;

use crate::{Ledger, LedgerError, LedgerFuture, Seen};

/// Who waits for which effect. An engine calls [`Waiters::wake`] after each durable change; waiting costs nothing
/// while nobody waits.
#[derive(Debug, Default)]
pub struct Waiters {
    waiting: AtomicUsize,
    by_id: Mutex<FxHashMap<EffectId, Entry>>,
}

#[derive(Debug)]
struct Entry {
    count: usize,
    changed: Arc<Notify>,
}

/// A place among the waiters of one effect; leaves it when dropped.
#[derive(Debug)]
struct Place<'a> {
    waiters: &'a Waiters,
    id: EffectId,
    changed: Arc<Notify>,
}

impl Waiters {
    /// [`Ledger::await_conclusion`] for an engine whose changes all come through this process.
    ///
    /// # Errors
    /// As the ledger's look-up, and [`LedgerError::TooManyWaiters`] when `max` already wait.
    pub async fn await_conclusion(
        &self,
        ledger: &dyn Ledger,
        id: EffectId,
        within: Duration,
        max: usize,
    ) -> Result<Seen, LedgerError> {
        self.wait(|| ledger.look_up(id), id, within, max).await
    }

    /// [`Ledger::await_conclusion`] for an engine that is told of other processes' changes: `look` reads the record and
    /// arranges for [`Waiters::wake`] to be called when it changes afterwards.
    ///
    /// # Errors
    /// As `look`, and [`LedgerError::TooManyWaiters`] when `max` already wait.
    pub async fn wait<'a>(
        &self,
        look: impl Fn() -> LedgerFuture<'a, Seen> + Send,
        id: EffectId,
        within: Duration,
        max: usize,
    ) -> Result<Seen, LedgerError> {
        let place = self.join(id, max)?;
        let mut over = pin!(tokio::time::sleep(within));
        loop {
            let mut changed = pin!(place.changed.notified());
            // From here on a wake is not missed, so a look-up that still sees it open may wait for one.
            changed.as_mut().enable();
            let seen = look().await?;
            let lease_left = match seen.record.as_ref().map(|r| &r.state) {
                Some(State::Open { lease_until, .. }) if seen.phase() == Phase::Open => lease_until.since(seen.now),
                _ => return Ok(seen),
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep(lease_left) => {}
                () = &mut over => return look().await,
            }
        }
    }

    fn join(&self, id: EffectId, max: usize) -> Result<Place<'_>, LedgerError> {
        let mut by_id = self.lock();
        let entry = by_id.entry(id).or_insert_with(|| Entry { count: 0, changed: Arc::default() });
        if entry.count >= max {
            if entry.count == 0 {
                by_id.remove(&id);
            }
            return Err(LedgerError::TooManyWaiters);
        }
        entry.count += 1;
        let changed = Arc::clone(&entry.changed);
        // Before the caller looks the record up: an engine that wakes after that look-up sees this count.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Ok(Place { waiters: self, id, changed })
    }

    /// Tells those who wait for `id` to look again.
    pub fn wake(&self, id: EffectId) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(entry) = self.lock().get(&id) {
            entry.changed.notify_waiters();
        }
    }

    /// Tells everybody to look again: changes may have been missed.
    pub fn wake_all(&self) {
        for entry in self.lock().values() {
            entry.changed.notify_waiters();
        }
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }

    fn lock(&self) -> MutexGuard<'_, FxHashMap<EffectId, Entry>> {
        // Every section leaves the map whole, also when it panics.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiters.waiting.fetch_sub(1, Ordering::SeqCst);
        let mut by_id = self.waiters.lock();
        if let Some(entry) = by_id.get_mut(&self.id) {
            entry.count -= 1;
            if entry.count == 0 {
                by_id.remove(&self.id);
            }
        }
    }
}
