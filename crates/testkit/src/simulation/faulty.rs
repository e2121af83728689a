//! A ledger behind a bad line.

use std::{sync::Arc, time::Duration};

use semel_core::{
    effect::{AuditEvent, Authority, Command, Record},
    scope::{EffectId, LookupSecret},
    time::Timestamp,
};
use semel_ledger::{Applied, Contract, Difference, Health, Ledger, LedgerError, LedgerFuture, Seen};

/// What is asked of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Ledger::look_up`].
    LookUp,
    /// [`Ledger::await_conclusion`].
    Await,
    /// [`Command::Claim`].
    Claim,
    /// [`Command::Reopen`].
    Reopen,
    /// [`Command::Renew`].
    Renew,
    /// [`Command::Settle`].
    Settle,
    /// [`Command::Release`].
    Release,
    /// [`Command::GiveUp`].
    GiveUp,
    /// [`Command::Lapse`] and [`Command::Orphan`].
    Lapse,
}

/// What happens to a call on its way.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It fails with this; nothing is carried out.
    Refuse(LedgerError),
    /// It is lost on its way there: nothing is carried out, and nobody can tell.
    LoseRequest,
    /// Its answer is lost: it is carried out, and nobody can tell.
    LoseReply,
    /// It takes this long to get there, then is carried out, whether or not its sender still waits.
    Delay(Duration),
    /// It is carried out, and its answer takes this long.
    DelayReply(Duration),
    /// It is carried out, and nothing ever comes back.
    Hang,
}

/// A ledger whose calls fail by plan. Contracts and audit are not disturbed.
pub struct FaultyLedger {
    inner: Arc<dyn Ledger>,
    plan: Box<Plan>,
}

type Plan = dyn Fn(Operation, EffectId) -> Option<Fault> + Send + Sync;

impl FaultyLedger {
    /// Every call is first shown to `plan`.
    pub fn new(
        inner: Arc<dyn Ledger>,
        plan: impl Fn(Operation, EffectId) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, plan: Box::new(plan) }
    }

    async fn pass<T: Send + 'static>(
        &self,
        operation: Operation,
        id: EffectId,
        call: LedgerFuture<'static, T>,
    ) -> Result<T, LedgerError> {
        let lost = || LedgerError::Uncertain("injected: the line broke".into());
        match (self.plan)(operation, id) {
            None => call.await,
            Some(Fault::Refuse(error)) => Err(error),
            Some(Fault::LoseRequest) => Err(lost()),
            Some(Fault::LoseReply) => {
                let _ = call.await;
                Err(lost())
            }
            Some(Fault::Delay(by)) => {
                let on_its_way = tokio::spawn(async move {
                    tokio::time::sleep(by).await;
                    call.await
                });
                on_its_way.await.unwrap_or_else(|_| Err(lost()))
            }
            Some(Fault::DelayReply(by)) => {
                let reply = call.await;
                tokio::time::sleep(by).await;
                reply
            }
            Some(Fault::Hang) => {
                let _ = call.await;
                std::future::pending().await
            }
        }
    }
}

impl Operation {
    /// What a command asks for.
    #[must_use]
    pub const fn of(command: &Command) -> Self {
        match command {
            Command::Claim(_) | Command::Import(_) => Self::Claim,
            Command::Reopen { .. } => Self::Reopen,
            Command::Renew { .. } => Self::Renew,
            Command::Settle { .. } => Self::Settle,
            Command::Release { .. } => Self::Release,
            Command::GiveUp { .. } => Self::GiveUp,
            Command::Lapse | Command::Orphan { .. } => Self::Lapse,
        }
    }
}

impl Ledger for FaultyLedger {
    fn look_up(&self, id: EffectId) -> LedgerFuture<'_, Seen> {
        let inner = Arc::clone(&self.inner);
        let call = Box::pin(async move { inner.look_up(id).await });
        Box::pin(self.pass(Operation::LookUp, id, call))
    }

    fn apply(&self, id: EffectId, command: Command) -> LedgerFuture<'_, Applied> {
        let operation = Operation::of(&command);
        let inner = Arc::clone(&self.inner);
        let call = Box::pin(async move { inner.apply(id, command).await });
        Box::pin(self.pass(operation, id, call))
    }

    fn await_conclusion(&self, id: EffectId, within: Duration, max_waiters: usize) -> LedgerFuture<'_, Seen> {
        let inner = Arc::clone(&self.inner);
        let call = Box::pin(async move { inner.await_conclusion(id, within, max_waiters).await });
        Box::pin(self.pass(Operation::Await, id, call))
    }

    fn live(&self, after: Option<EffectId>, limit: usize) -> LedgerFuture<'_, Vec<Record>> {
        self.inner.live(after, limit)
    }

    fn audit_log(&self, after: u64, limit: usize) -> LedgerFuture<'_, Vec<(u64, AuditEvent)>> {
        self.inner.audit_log(after, limit)
    }

    fn secret(&self) -> LookupSecret {
        self.inner.secret()
    }

    fn agree(&self, contracts: Vec<Contract>, migrate: Option<Authority>) -> LedgerFuture<'_, Vec<Difference>> {
        self.inner.agree(contracts, migrate)
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }
}
