//! Decides commands: load, step, write. Every rule about who may move an effect where is in the core.

use super::{
    clock::GuardedClock,
    effects::{attention_ms, audit_key, clock_key, contracts_key, live_key, live_record, settled_key},
};
use crate::{
    Error,
    store::{Fate, Key, Machine, Transaction, View, space},
};
use semel_core::{
    effect::{
        AuditEvent, AuditKind, Authority, Command, Fence, Moment, Next, Owner, Record, State, UnknownReason, step,
    },
    scope::EffectId,
    time::Timestamp,
};
use semel_ledger::{Applied, Contract, Difference, LedgerError, Seen, Waiters, codec};
use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What callers ask of the machine.
pub(crate) enum Operation {
    Apply { id: EffectId, command: Command },
    Agree { contracts: Vec<Contract>, migrate: Option<Authority> },
}

/// What they are told.
pub(crate) enum Answer {
    Applied(Box<Applied>),
    Differences(Vec<Difference>),
}

/// What outlives the machine when a stopped store is opened again.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) waiters: Waiters,
    /// Claims whose commit failed: nobody was told of them, so nothing was sent under them.
    failed_claims: Mutex<Vec<(EffectId, Fence)>>,
}

impl Shared {
    fn failed_claims(&self) -> MutexGuard<'_, Vec<(EffectId, Fence)>> {
        self.failed_claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct EffectMachine {
    owner: Owner,
    clock: Arc<GuardedClock>,
    shared: Arc<Shared>,
    /// What the batch at hand has changed, and what it has claimed.
    changed: Vec<EffectId>,
    claimed: Vec<(EffectId, Fence)>,
}

impl EffectMachine {
    pub(crate) fn new(owner: Owner, clock: Arc<GuardedClock>, shared: Arc<Shared>) -> Self {
        Self { owner, clock, shared, changed: Vec::new(), claimed: Vec::new() }
    }

    fn apply(&mut self, id: EffectId, command: &Command, transaction: &mut Transaction<'_>) -> Result<Applied, Error> {
        let (live, settled) = (live_key(id), settled_key(id));
        let from_live = transaction.get(&live)?;
        let from_settled = if from_live.is_none() { transaction.get(&settled)? } else { None };
        let found = from_live.as_ref().or(from_settled.as_ref());
        let current = found.map(|value| codec::decode_record(id, &value.body)).transpose().map_err(damaged)?;
        let now = self.clock.now();
        let moment = Moment { now, fence: Fence(transaction.sequence()) };
        let step = step(id, current.as_ref(), command, moment);
        let claims = matches!(command, Command::Claim(_) | Command::Reopen { .. });
        let record = match step.next {
            Next::Keep => current.filter(|record| record.compacted(now).is_some()),
            Next::Put(record) => {
                let is_claim = claims && record.fence == moment.fence;
                if is_claim {
                    if transaction.is_disk_low() {
                        return Err(Error::DiskLow);
                    }
                    self.claimed.push((id, record.fence));
                }
                let key = if record.is_live() { live } else { settled };
                let body = codec::encode_record(&record);
                transaction.put(&key, attention_ms(&record), |out| out.extend_from_slice(&body));
                if from_live.is_some() && !record.is_live() {
                    transaction.delete(&live);
                }
                if from_settled.is_some() && record.is_live() {
                    transaction.delete(&settled);
                }
                self.note(id, now, transaction);
                Some(*record)
            }
            Next::Delete => {
                transaction.delete(if from_live.is_some() { &live } else { &settled });
                self.note(id, now, transaction);
                None
            }
        };
        if let Some(event) = &step.audit {
            write_audit(transaction.sequence(), event, transaction);
        }
        Ok(Applied { reply: step.reply, seen: Seen { record, now } })
    }

    /// What goes with every write: the waiters to wake, and now and then the clock's high-water mark.
    fn note(&mut self, id: EffectId, now: Timestamp, transaction: &mut Transaction<'_>) {
        self.changed.push(id);
        if let Some(now) = self.clock.note(now) {
            transaction.put(&clock_key(), None, |out| out.extend_from_slice(&now.as_millis().to_le_bytes()));
        }
    }

    fn agree(
        &self,
        contracts: Vec<Contract>,
        migrate: Option<Authority>,
        transaction: &mut Transaction<'_>,
    ) -> Result<Vec<Difference>, Error> {
        let stored = transaction.get(&contracts_key())?;
        let mut held: BTreeMap<Box<str>, Vec<u8>> = match &stored {
            Some(value) => minicbor::decode(&value.body).map_err(damaged)?,
            None => BTreeMap::new(),
        };
        let differences: Vec<_> = contracts
            .iter()
            .filter_map(|asked| {
                let held = held.get(&asked.scope).filter(|held| **held != asked.terms)?;
                Some(Difference { scope: asked.scope.clone(), held: held.clone(), asked: asked.terms.clone() })
            })
            .collect();
        if !differences.is_empty() && migrate.is_none() {
            return Ok(differences);
        }
        let before = held.clone();
        held.extend(contracts.into_iter().map(|contract| (contract.scope, contract.terms)));
        if held != before {
            // Writing to memory cannot fail.
            let body = minicbor::to_vec(&held).unwrap_or_default();
            transaction.put(&contracts_key(), None, |out| out.extend_from_slice(&body));
        }
        if let Some(by) = migrate {
            let at = self.clock.now();
            // Far apart from the next operation's number: one operation may migrate many scopes.
            for (number, difference) in (transaction.sequence() << AUDIT_BITS..).zip(&differences) {
                let (kind, detail) = (AuditKind::Migrated, difference.scope.clone());
                let event = AuditEvent { at, id: None, fence: Fence(0), kind, by: by.clone(), detail };
                write_audit_at(number, &event, transaction);
            }
        }
        Ok(differences)
    }
}

/// Bits of an audit line's number that count the lines of one operation.
const AUDIT_BITS: u32 = 8;

/// The key of the first audit line of batch `number`.
pub(crate) fn first_audit_key(number: u64) -> Key {
    audit_key(Transaction::first_sequence(number) << AUDIT_BITS)
}

fn write_audit(sequence: u64, event: &AuditEvent, transaction: &mut Transaction<'_>) {
    write_audit_at(sequence << AUDIT_BITS, event, transaction);
}

fn write_audit_at(number: u64, event: &AuditEvent, transaction: &mut Transaction<'_>) {
    let line = codec::encode_audit(event);
    transaction.put(&audit_key(number), None, |out| out.extend_from_slice(&line));
}

fn damaged(error: impl std::fmt::Display) -> Error {
    Error::damaged("", error.to_string())
}

impl Machine for EffectMachine {
    type Operation = Operation;
    type Answer = Answer;

    fn decide(&mut self, operation: Operation, transaction: &mut Transaction<'_>) -> Result<Answer, Error> {
        match operation {
            Operation::Apply { id, command } => {
                self.apply(id, &command, transaction).map(|applied| Answer::Applied(Box::new(applied)))
            }
            Operation::Agree { contracts, migrate } => {
                self.agree(contracts, migrate, transaction).map(Answer::Differences)
            }
        }
    }

    fn concluded(&mut self, fate: Fate) {
        let (changed, claimed) = (mem::take(&mut self.changed), mem::take(&mut self.claimed));
        match fate {
            Fate::Committed => changed.into_iter().for_each(|id| self.shared.waiters.wake(id)),
            Fate::Discarded => {}
            Fate::Uncertain => self.shared.failed_claims().extend(claimed),
        }
    }

    /// Reads what is live. The folder's lock proves that every owner but this one is gone, and claims whose commit
    /// failed in this process were never sent.
    fn recover(&mut self, view: &View) -> Result<Vec<Operation>, Error> {
        if let Some(value) = view.get(&clock_key())? {
            let millis = value.body.as_ref().try_into().map_err(|_| damaged("the clock's mark is malformed"))?;
            self.clock.remember(Timestamp::from_millis(u64::from_le_bytes(millis)));
        }
        // They stay on the list: a fence is given once, and this opening may fail half-way.
        let failed = self.shared.failed_claims().clone();
        let mut operations = Vec::new();
        for item in view.scan(&[space::LIVE], &[]) {
            let record = live_record(item?).map_err(|e: LedgerError| damaged(e))?;
            if let Some(command) = self.recovery_of(&record, &failed) {
                operations.push(Operation::Apply { id: record.id, command });
            }
        }
        if !operations.is_empty() {
            tracing::warn!(effects = operations.len(), "effects were open when their owner went: they are unknown now");
        }
        Ok(operations)
    }
}

impl EffectMachine {
    fn recovery_of(&self, record: &Record, failed: &[(EffectId, Fence)]) -> Option<Command> {
        let State::Open { owner, .. } = record.state else { return None };
        if failed.contains(&(record.id, record.fence)) {
            let (fence, by) = (record.fence, Authority::Owner);
            // What was unknown before this claim is so again; nothing was added to it.
            return Some(if record.was_unknown {
                Command::GiveUp { fence, reason: UnknownReason::Abandoned, attempts: 0 }
            } else {
                Command::Release { fence, by }
            });
        }
        (owner != self.owner).then_some(Command::Orphan { survivor: self.owner })
    }
}
