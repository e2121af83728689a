//! The [`Ledger`] over the store: it loads, asks [`semel_core::effect::step`], and writes the result.

mod clock;
mod effects;
mod machine;

use crate::{
    Error,
    store::{Key, Options, Stats, Store, space},
};
use clock::GuardedClock;
use machine::{Answer, EffectMachine, Operation, Shared};
use semel_core::{
    effect::{AuditEvent, Authority, Command, Owner, Phase, Record},
    scope::{EffectId, LookupSecret},
    time::Timestamp,
};
use semel_ledger::{
    Applied, Clock, Contract, Difference, Health, Ledger, LedgerError, LedgerFuture, Seen, SystemClock, codec,
};
use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError, RwLock},
    time::Duration,
};

pub(crate) use effects::{audit_line, contracts_key, id_of};
use effects::{live_key, settled_key};
pub(crate) use machine::first_audit_key;

/// The embedded ledger: one process, one folder.
///
/// A settlement, answer included, must fit into half a log segment less 8 KiB ([`Options::segment_bytes`]: with the
/// default 8 MiB).
pub struct EmbeddedLedger {
    options: Options,
    owner: Owner,
    clock: Arc<GuardedClock>,
    shared: Arc<Shared>,
    secret: LookupSecret,
    /// None only while it is being opened again.
    store: RwLock<Option<Arc<Store<EffectMachine>>>>,
}

impl EmbeddedLedger {
    /// Opens the ledger of a folder, creating it if the folder is missing or empty. Reads the open and unknown
    /// effects, and writes down that every open effect of another owner is unknown: the folder's lock proves that
    /// owner gone. `options.sweeper` is the ledger's own.
    ///
    /// # Errors
    /// See [`Store::open`].
    pub fn open(options: Options, owner: Owner) -> Result<Self, Error> {
        Self::open_with_clock(options, owner, Arc::new(SystemClock::start()))
    }

    /// As [`EmbeddedLedger::open`], on another clock than the system's.
    ///
    /// # Errors
    /// See [`Store::open`].
    pub fn open_with_clock(mut options: Options, owner: Owner, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let clock = Arc::new(GuardedClock::new(clock));
        let shared = Arc::new(Shared::default());
        options.sweeper = Arc::new(effects::EffectSweeper::new(clock.clone()));
        let store = Store::open(&options, EffectMachine::new(owner, clock.clone(), shared.clone()))?;
        let secret = LookupSecret::from_bytes(store.secret());
        Ok(Self { options, owner, clock, shared, secret, store: RwLock::new(Some(Arc::new(store))) })
    }

    /// Opens a ledger that stopped once more, in this process. Claims whose commit failed were not sent by anybody,
    /// so those that are found on the disk after all are released.
    ///
    /// # Errors
    /// If it cannot be opened; it stays stopped then and this can be called again.
    pub fn reopen(&self) -> Result<(), Error> {
        let mut slot = self.store.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = slot.take() {
            if store.stopped().is_none() {
                *slot = Some(store);
                return Ok(());
            }
            close(store, Duration::from_secs(10))?;
        }
        let machine = EffectMachine::new(self.owner, self.clock.clone(), self.shared.clone());
        *slot = Some(Arc::new(Store::open(&self.options, machine)?));
        Ok(())
    }

    /// Numbers for operators.
    ///
    /// # Errors
    /// If the disk cannot be asked, or while the ledger is stopped.
    pub fn stats(&self) -> Result<Stats, Error> {
        self.store()?.stats()
    }

    /// Moves everything into the table and rewrites it, so that what has expired is gone from the disk when this
    /// returns. Blocks for as long as that takes; calls go on meanwhile.
    ///
    /// # Errors
    /// If the table cannot be read or written, or while the ledger is stopped.
    pub fn compact(&self) -> Result<(), Error> {
        let store = self.store()?;
        if !store.checkpoint(Duration::from_secs(60)) {
            return Err(Error::Stopped { reason: "a checkpoint takes too long".into() });
        }
        store.rewrite()
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    fn store(&self) -> Result<Arc<Store<EffectMachine>>, Error> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        store.clone().ok_or_else(|| Error::Stopped { reason: "the ledger is closed".into() })
    }

    async fn call(&self, operation: Operation) -> Result<Answer, Error> {
        self.store()?.call(operation).await
    }

    fn read(&self, id: EffectId) -> Result<Seen, LedgerError> {
        let store = self.store().map_err(|e| of_effect(id, &e))?;
        // Live first: a record moves from there to the settled ones, never back while it means anything.
        let mut found = None;
        for key in [live_key(id), settled_key(id)] {
            found = store.get(&key).map_err(|e| of_effect(id, &e))?;
            if found.is_some() {
                break;
            }
        }
        let record = found.map(|value| codec::decode_record(id, &value.body)).transpose()?;
        let now = self.clock.now();
        Ok(Seen { record: record.filter(|record| record.phase(now) != Phase::Absent), now })
    }

    fn list_live(&self, after: Option<EffectId>, limit: usize) -> Result<Vec<Record>, LedgerError> {
        let store = self.store().map_err(|e| of_ledger(&e))?;
        let from = after.map_or_else(Vec::new, |id| [live_key(id).as_ref(), &[0]].concat());
        let items = store.scan(&[space::LIVE], &from).take(limit);
        items.map(|item| effects::live_record(item.map_err(|e| of_ledger(&e))?)).collect()
    }

    fn list_audit(&self, after: u64, limit: usize) -> Result<Vec<(u64, AuditEvent)>, LedgerError> {
        let store = self.store().map_err(|e| of_ledger(&e))?;
        let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
        let items = store.scan(&[space::AUDIT], effects::audit_key(from).as_ref()).take(limit);
        items.map(|item| audit_line(item.map_err(|e| of_ledger(&e))?)).collect()
    }
}

/// Waits until nobody uses a stopped store any more and closes it, so that its folder is free.
fn close<T>(mut store: Arc<T>, patience: Duration) -> Result<(), Error> {
    // Its callers have been answered; what is left of them is on its way out. Nobody signals that, so look again.
    let (lock, nobody) = (Mutex::new(()), Condvar::new());
    let step = Duration::from_millis(5);
    for _ in 0..patience.as_millis() / step.as_millis() {
        match Arc::try_unwrap(store) {
            Ok(store) => {
                drop(store);
                return Ok(());
            }
            Err(shared) => store = shared,
        }
        let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(nobody.wait_timeout(guard, step));
    }
    Err(Error::Stopped { reason: "it is still in use".into() })
}

impl Ledger for EmbeddedLedger {
    fn look_up(&self, id: EffectId) -> LedgerFuture<'_, Seen> {
        Box::pin(async move { self.read(id) })
    }

    fn apply(&self, id: EffectId, command: Command) -> LedgerFuture<'_, Applied> {
        Box::pin(async move {
            let is_claim = matches!(command, Command::Claim(_) | Command::Reopen { .. });
            match self.call(Operation::Apply { id, command }).await {
                Ok(Answer::Applied(applied)) => Ok(*applied),
                Ok(_) => Err(LedgerError::Uncertain("another operation's answer".into())),
                Err(Error::DiskFull) if is_claim => Err(LedgerError::ClaimsPaused(Error::DiskFull.to_string())),
                Err(e) => Err(of_effect(id, &e)),
            }
        })
    }

    fn await_conclusion(&self, id: EffectId, within: Duration, max_waiters: usize) -> LedgerFuture<'_, Seen> {
        Box::pin(self.shared.waiters.await_conclusion(self, id, within, max_waiters))
    }

    fn live(&self, after: Option<EffectId>, limit: usize) -> LedgerFuture<'_, Vec<Record>> {
        Box::pin(async move { self.list_live(after, limit) })
    }

    fn audit_log(&self, after: u64, limit: usize) -> LedgerFuture<'_, Vec<(u64, AuditEvent)>> {
        Box::pin(async move { self.list_audit(after, limit) })
    }

    fn secret(&self) -> LookupSecret {
        self.secret.clone()
    }

    fn agree(&self, contracts: Vec<Contract>, migrate: Option<Authority>) -> LedgerFuture<'_, Vec<Difference>> {
        Box::pin(async move {
            match self.call(Operation::Agree { contracts, migrate }).await {
                Ok(Answer::Differences(differences)) => Ok(differences),
                Ok(_) => Err(LedgerError::Uncertain("another operation's answer".into())),
                Err(e) => Err(of_ledger(&e)),
            }
        })
    }

    fn health(&self) -> Health {
        let store = match self.store() {
            Ok(store) => store,
            Err(e) => return Health::Stopped(e.to_string()),
        };
        match store.stopped() {
            Some(Error::Stopped { reason }) => Health::Stopped(reason.to_string()),
            Some(e) => Health::Stopped(e.to_string()),
            None if store.is_disk_low() => Health::ClaimsPaused(Error::DiskLow.to_string()),
            None => Health::Ready,
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

fn of_effect(id: EffectId, error: &Error) -> LedgerError {
    match error {
        Error::Damaged(damage) => LedgerError::Damaged { id, what: damage.to_string() },
        other => of_ledger(other),
    }
}

fn of_ledger(error: &Error) -> LedgerError {
    match error {
        Error::Stopped { reason } => LedgerError::Stopped(reason.to_string()),
        Error::DiskLow => LedgerError::ClaimsPaused(error.to_string()),
        other => LedgerError::Unreachable(other.to_string()),
    }
}

pub(crate) fn key(parts: &[&[u8]]) -> Key {
    // All keys of the ledger are made of parts of known lengths.
    Key::from_parts(parts).unwrap_or_else(|| unreachable!("a key of the ledger fits"))
}
