//! A process that can be killed.

use std::{
    future::pending,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use semel_core::{
    effect::{AuditEvent, Authority, Command, Record},
    scope::{EffectId, LookupSecret},
    time::Timestamp,
};
use semel_ledger::{Applied, Contract, Difference, Health, Ledger, LedgerFuture, Seen};
use tokio::sync::Notify;

/// The life of a simulated process. When it ends, nothing that is bound to it goes on: as after kill -9, its tasks
/// stand still at the next thing they would have waited for.
#[derive(Clone, Debug)]
pub struct Life(Arc<Lifetime>);

#[derive(Debug, Default)]
struct Lifetime {
    is_over: AtomicBool,
    // Not a `watch`: that one wakes in an order which differs from run to run.
    ended: Notify,
}

impl Default for Life {
    fn default() -> Self {
        Self::begin()
    }
}

impl Life {
    /// A process starts.
    #[must_use]
    pub fn begin() -> Self {
        Self(Arc::default())
    }

    /// It is killed.
    pub fn end(&self) {
        self.0.is_over.store(true, Ordering::SeqCst);
        self.0.ended.notify_waiters();
    }

    /// Whether it was killed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::SeqCst)
    }

    /// Completes when it is killed.
    pub async fn over(&self) {
        let mut ended = pin!(self.0.ended.notified());
        // Counted among those who wait before the look: an end in between is not missed.
        ended.as_mut().enable();
        if !self.is_over() {
            ended.await;
        }
    }

    /// `work`, as far as this process gets with it.
    pub async fn bind<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = self.over() => pending().await,
            done = work => done,
        }
    }
}

/// A ledger as a process sees it that can be killed: its calls never return after that, carried out or not.
pub struct MortalLedger {
    inner: Arc<dyn Ledger>,
    life: Life,
}

impl MortalLedger {
    /// `inner` in this life.
    #[must_use]
    pub fn new(inner: Arc<dyn Ledger>, life: Life) -> Self {
        Self { inner, life }
    }
}

impl Ledger for MortalLedger {
    fn look_up(&self, id: EffectId) -> LedgerFuture<'_, Seen> {
        Box::pin(self.life.bind(self.inner.look_up(id)))
    }

    fn apply(&self, id: EffectId, command: Command) -> LedgerFuture<'_, Applied> {
        Box::pin(self.life.bind(self.inner.apply(id, command)))
    }

    fn await_conclusion(&self, id: EffectId, within: Duration, max_waiters: usize) -> LedgerFuture<'_, Seen> {
        Box::pin(self.life.bind(self.inner.await_conclusion(id, within, max_waiters)))
    }

    fn live(&self, after: Option<EffectId>, limit: usize) -> LedgerFuture<'_, Vec<Record>> {
        Box::pin(self.life.bind(self.inner.live(after, limit)))
    }

    fn audit_log(&self, after: u64, limit: usize) -> LedgerFuture<'_, Vec<(u64, AuditEvent)>> {
        Box::pin(self.life.bind(self.inner.audit_log(after, limit)))
    }

    fn secret(&self) -> LookupSecret {
        self.inner.secret()
    }

    fn agree(&self, contracts: Vec<Contract>, migrate: Option<Authority>) -> LedgerFuture<'_, Vec<Difference>> {
        Box::pin(self.life.bind(self.inner.agree(contracts, migrate)))
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }
}
