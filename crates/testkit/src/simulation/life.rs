//! A process that can be killed.

use std::{future::pending, sync::Arc, time::Duration};

use semel_core::{
    effect::{AuditEvent, Authority, Command, Record},
    scope::{EffectId, LookupSecret},
    time::Timestamp,
};
use semel_ledger::{Applied, Contract, Difference, Health, Ledger, LedgerFuture, Seen};
use tokio::sync::watch;

/// The life of a simulated process. When it ends, nothing that is bound to it goes on: as after kill -9, its tasks
/// stand still at the next thing they would have waited for.
#[derive(Clone, Debug)]
pub struct Life(watch::Sender<bool>);

impl Default for Life {
    fn default() -> Self {
        Self::begin()
    }
}

impl Life {
    /// A process starts.
    #[must_use]
    pub fn begin() -> Self {
        Self(watch::Sender::new(true))
    }

    /// It is killed.
    pub fn end(&self) {
        self.0.send_replace(false);
    }

    /// Whether it was killed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !*self.0.borrow()
    }

    /// Completes when it is killed.
    pub async fn over(&self) {
        // The sender is ours, so the only error, that there is none left, cannot be.
        let _ = self.0.subscribe().wait_for(|lives| !lives).await;
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
