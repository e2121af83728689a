//! The model ledger with faults: calls that fail, calls that fail after they were carried out, calls that wait.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use semel_core::effect::{AuditEvent, Authority, Command, Record};
use semel_core::scope::{EffectId, LookupSecret};
use semel_core::time::Timestamp;
use semel_ledger::model::ModelLedger;
use semel_ledger::{Applied, Contract, Difference, Health, Ledger, LedgerError, LedgerFuture, ManualClock, Seen};
use tokio::sync::watch;

use super::{PATIENCE, eventually};

/// What the ledger is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    LookUp,
    Claim,
    Reopen,
    Renew,
    Settle,
    Release,
    GiveUp,
    Lapse,
}

/// What is done with a call.
#[derive(Clone)]
pub(crate) enum Fate {
    /// It is carried out.
    Good,
    /// It is not carried out.
    Fails(LedgerError),
    /// It is carried out and nobody is told.
    CarriedOutAndFails(LedgerError),
    /// It waits until the hold ends, then it is carried out.
    Waits(Hold),
}

/// Holds ledger calls until the test lets go.
#[derive(Clone)]
pub(crate) struct Hold(Arc<watch::Sender<bool>>);

impl Hold {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn let_go(&self) {
        self.0.send_replace(true);
    }

    async fn wait(&self) {
        let mut ended = self.0.subscribe();
        let _ = tokio::time::timeout(PATIENCE, ended.wait_for(|ended| *ended)).await;
    }
}

type Plan = Box<dyn FnMut(Op) -> Fate + Send>;

/// A ledger that fails as told.
pub(crate) struct TestLedger {
    model: ModelLedger,
    pub(crate) clock: ManualClock,
    plan: Mutex<Plan>,
    asked: Mutex<Vec<Op>>,
}

impl TestLedger {
    pub(crate) fn new() -> Arc<Self> {
        let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
        let model = ModelLedger::with(Arc::new(clock.clone()), [7; LookupSecret::BYTES]);
        Arc::new(Self { model, clock, plan: Mutex::new(Box::new(|_| Fate::Good)), asked: Mutex::default() })
    }

    /// What is done with each call from now on.
    pub(crate) fn plan(&self, plan: impl FnMut(Op) -> Fate + Send + 'static) {
        *self.plan.lock().unwrap() = Box::new(plan);
    }

    /// From now on these calls have this fate.
    pub(crate) fn all(&self, ops: &'static [Op], fate: Fate) {
        self.plan(move |op| if ops.contains(&op) { fate.clone() } else { Fate::Good });
    }

    /// Nothing can be reached from now on.
    pub(crate) fn is_down(&self) {
        self.plan(|_| Fate::Fails(LedgerError::Unreachable("the test says so".to_owned())));
    }

    pub(crate) fn is_up(&self) {
        self.plan(|_| Fate::Good);
    }

    /// How often it was asked that so far.
    pub(crate) fn asked(&self, op: Op) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| **asked == op).count()
    }

    /// Waits until it was asked that so often.
    pub(crate) fn wait_for(&self, op: Op, count: usize) {
        eventually(&format!("{op:?} number {count}"), || self.asked(op) >= count);
    }

    fn fate(&self, op: Op) -> Fate {
        self.asked.lock().unwrap().push(op);
        self.plan.lock().unwrap()(op)
    }
}

impl Ledger for TestLedger {
    fn look_up(&self, id: EffectId) -> LedgerFuture<'_, Seen> {
        Box::pin(async move {
            match self.fate(Op::LookUp) {
                Fate::Fails(error) | Fate::CarriedOutAndFails(error) => return Err(error),
                Fate::Waits(hold) => hold.wait().await,
                Fate::Good => {}
            }
            self.model.look_up(id).await
        })
    }

    fn apply(&self, id: EffectId, command: Command) -> LedgerFuture<'_, Applied> {
        let op = match &command {
            Command::Claim(_) | Command::Import(_) => Op::Claim,
            Command::Reopen { .. } => Op::Reopen,
            Command::Renew { .. } => Op::Renew,
            Command::Settle { .. } => Op::Settle,
            Command::Release { .. } => Op::Release,
            Command::GiveUp { .. } => Op::GiveUp,
            Command::Lapse | Command::Orphan { .. } => Op::Lapse,
        };
        Box::pin(async move {
            match self.fate(op) {
                Fate::Fails(error) => return Err(error),
                Fate::CarriedOutAndFails(error) => {
                    self.model.apply(id, command).await?;
                    return Err(error);
                }
                Fate::Waits(hold) => hold.wait().await,
                Fate::Good => {}
            }
            self.model.apply(id, command).await
        })
    }

    fn await_conclusion(&self, id: EffectId, within: Duration, max_waiters: usize) -> LedgerFuture<'_, Seen> {
        self.model.await_conclusion(id, within, max_waiters)
    }

    fn live(&self, after: Option<EffectId>, limit: usize) -> LedgerFuture<'_, Vec<Record>> {
        self.model.live(after, limit)
    }

    fn audit_log(&self, after: u64, limit: usize) -> LedgerFuture<'_, Vec<(u64, AuditEvent)>> {
        self.model.audit_log(after, limit)
    }

    fn secret(&self) -> LookupSecret {
        self.model.secret()
    }

    fn agree(&self, contracts: Vec<Contract>, migrate: Option<Authority>) -> LedgerFuture<'_, Vec<Difference>> {
        self.model.agree(contracts, migrate)
    }

    fn health(&self) -> Health {
        self.model.health()
    }

    fn now(&self) -> Timestamp {
        self.model.now()
    }
}
