//! The in-memory model: the simplest thing that keeps the contract, except that it forgets when dropped.
//!
//! Tests and simulations compare engines with it, and the library's users try things on it.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use semel_core::{
    effect::{AuditEvent, AuditKind, Authority, Command, Fence, Moment, Next, Phase, step},
    scope::{EffectId, LookupSecret},
    time::Timestamp,
};

use crate::{
    Applied, Clock, Contract, Difference, Health, Ledger, LedgerError, LedgerFuture, Seen, SystemClock, Waiters, codec,
};

/// A ledger in memory. Records are kept encoded, so that whatever uses the model exercises the stored format too.
pub struct ModelLedger {
    clock: Arc<dyn Clock>,
    secret: LookupSecret,
    waiters: Waiters,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    records: BTreeMap<EffectId, Vec<u8>>,
    contracts: BTreeMap<Box<str>, Vec<u8>>,
    audit: Vec<AuditEvent>,
    last_fence: u64,
}

impl ModelLedger {
    /// An empty ledger on the system's clock with a random secret.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut secret = [0; LookupSecret::BYTES];
        getrandom::fill(&mut secret)?;
        Ok(Self::with(Arc::new(SystemClock::start()), secret))
    }

    /// An empty ledger with this clock and secret.
    #[must_use]
    pub fn with(clock: Arc<dyn Clock>, secret: [u8; LookupSecret::BYTES]) -> Self {
        let secret = LookupSecret::from_bytes(secret);
        Self { clock, secret, waiters: Waiters::default(), table: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic while it is held is a defect of a test; what stands is still whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, id: EffectId) -> Result<Seen, LedgerError> {
        let table = self.lock();
        let now = self.clock.now();
        let record = table.records.get(&id).map(|bytes| codec::decode_record(id, bytes)).transpose()?;
        Ok(Seen { record: record.filter(|r| r.phase(now) != Phase::Absent), now })
    }

    fn carry_out(&self, id: EffectId, command: &Command) -> Result<Applied, LedgerError> {
        let mut table = self.lock();
        let now = self.clock.now();
        let current = table.records.get(&id).map(|bytes| codec::decode_record(id, bytes)).transpose()?;
        table.last_fence += 1;
        let moment = Moment { now, fence: Fence(table.last_fence) };
        let decided = step(id, current.as_ref(), command, moment);
        let record = match decided.next {
            Next::Keep => current.filter(|record| record.compacted(now).is_some()),
            Next::Put(record) => {
                table.records.insert(id, codec::encode_record(&record));
                Some(*record)
            }
            Next::Delete => {
                table.records.remove(&id);
                None
            }
        };
        table.audit.extend(decided.audit);
        Ok(Applied { reply: decided.reply, seen: Seen { record, now } })
    }

    fn compare_contracts(&self, contracts: Vec<Contract>, migrate: Option<Authority>) -> Vec<Difference> {
        let mut table = self.lock();
        let differences: Vec<_> = contracts
            .iter()
            .filter_map(|asked| {
                let held = table.contracts.get(&asked.scope)?;
                (*held != asked.terms).then(|| Difference {
                    scope: asked.scope.clone(),
                    held: held.clone(),
                    asked: asked.terms.clone(),
                })
            })
            .collect();
        if differences.is_empty() || migrate.is_some() {
            table.contracts.extend(contracts.into_iter().map(|c| (c.scope, c.terms)));
        }
        if let Some(by) = migrate {
            let at = self.clock.now();
            table.audit.extend(differences.iter().map(|d| AuditEvent {
                at,
                id: None,
                fence: Fence(0),
                kind: AuditKind::Migrated,
                by: by.clone(),
                detail: d.scope.clone(),
            }));
        }
        differences
    }
}

impl Ledger for ModelLedger {
    fn look_up(&self, id: EffectId) -> LedgerFuture<'_, Seen> {
        Box::pin(async move { self.read(id) })
    }

    fn apply(&self, id: EffectId, command: Command) -> LedgerFuture<'_, Applied> {
        Box::pin(async move {
            let applied = self.carry_out(id, &command)?;
            self.waiters.wake(id);
            Ok(applied)
        })
    }

    fn await_conclusion(&self, id: EffectId, within: Duration, max_waiters: usize) -> LedgerFuture<'_, Seen> {
        Box::pin(self.waiters.await_conclusion(self, id, within, max_waiters))
    }

    fn live(&self, after: Option<EffectId>, limit: usize) -> LedgerFuture<'_, Vec<semel_core::effect::Record>> {
        Box::pin(async move {
            let table = self.lock();
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut live = Vec::new();
            for (id, bytes) in table.records.range((from, Bound::Unbounded)) {
                let record = codec::decode_record(*id, bytes)?;
                if record.is_live() {
                    live.push(record);
                }
                if live.len() == limit {
                    break;
                }
            }
            Ok(live)
        })
    }

    fn audit_log(&self, after: u64, limit: usize) -> LedgerFuture<'_, Vec<(u64, AuditEvent)>> {
        Box::pin(async move {
            let skip = usize::try_from(after).unwrap_or(usize::MAX);
            Ok((1..).zip(self.lock().audit.iter().cloned()).skip(skip).take(limit).collect())
        })
    }

    fn secret(&self) -> LookupSecret {
        self.secret.clone()
    }

    fn agree(&self, contracts: Vec<Contract>, migrate: Option<Authority>) -> LedgerFuture<'_, Vec<Difference>> {
        Box::pin(async move { Ok(self.compare_contracts(contracts, migrate)) })
    }

    fn health(&self) -> Health {
        Health::Ready
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
