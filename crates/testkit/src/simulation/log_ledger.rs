//! A ledger on a simulated log, which loses in a crash what was not flushed.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use semel_core::{
    effect::{AuditEvent, AuditKind, Authority, Command, Fence, Moment, Next, Owner, Record, Reply, step},
    scope::{EffectId, LookupSecret},
    time::Timestamp,
};
use semel_ledger::{
    Applied, Clock, Contract, Difference, Health, Ledger, LedgerError, LedgerFuture, Seen, Waiters, codec,
};

use super::Random;

/// A ledger whose writes go to a log in memory, whose flushes take virtual time and are shared, and which can crash:
/// what was flushed stays, of the rest a random beginning.
pub struct LogLedger {
    clock: Arc<dyn Clock>,
    secret: LookupSecret,
    waiters: Waiters,
    state: Mutex<State>,
    /// Held by whoever flushes.
    flushing: tokio::sync::Mutex<()>,
    flush_micros_max: u64,
    answers_unflushed: fn(&Command) -> bool,
    ignores_fences: bool,
}

struct State {
    log: Vec<Entry>,
    /// So many entries are on the disk.
    durable: usize,
    table: Table,
    /// Counts the crashes.
    epoch: u64,
    is_up: bool,
    random: Random,
}

/// What the log says, replayed.
#[derive(Default)]
struct Table {
    records: BTreeMap<EffectId, Vec<u8>>,
    contracts: BTreeMap<Box<str>, Vec<u8>>,
    audit: Vec<AuditEvent>,
    last_fence: u64,
}

#[derive(Clone)]
enum Entry {
    /// One command's write, whole or not at all.
    Step { id: EffectId, record: Option<Vec<u8>>, fence: u64, audit: Option<AuditEvent> },
    /// A scope's contract.
    Contract { contract: Contract, audit: Option<AuditEvent> },
}

/// A place in the log of one life of the ledger.
#[derive(Clone, Copy)]
struct Position {
    entries: usize,
    epoch: u64,
}

impl LogLedger {
    /// An empty ledger. A flush takes up to `flush_max`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, secret: [u8; LookupSecret::BYTES], flush_max: Duration, random: Random) -> Self {
        let state = State { log: Vec::new(), durable: 0, table: Table::default(), epoch: 0, is_up: true, random };
        Self {
            clock,
            secret: LookupSecret::from_bytes(secret),
            waiters: Waiters::default(),
            state: Mutex::new(state),
            flushing: tokio::sync::Mutex::default(),
            flush_micros_max: u64::try_from(flush_max.as_micros()).unwrap_or(u64::MAX),
            answers_unflushed: |_| false,
            ignores_fences: false,
        }
    }

    /// The same, but it answers `these` before it flushes them: what a simulation must find out.
    #[must_use]
    pub fn answering_unflushed(self, these: fn(&Command) -> bool) -> Self {
        Self { answers_unflushed: these, ..self }
    }

    /// The same, but it takes every command for one of the newest claim: what a simulation must find out.
    #[must_use]
    pub fn ignoring_fences(self) -> Self {
        Self { ignores_fences: true, ..self }
    }

    /// What it holds in memory under `id`, past all faults: for those who judge, not for those who are judged.
    #[must_use]
    pub fn peek(&self, id: EffectId) -> Option<Record> {
        self.lock().read(id).ok().flatten()
    }

    /// The effects whose latest write a crash now could lose.
    #[must_use]
    pub fn at_risk(&self) -> Vec<EffectId> {
        let state = self.lock();
        let entries = state.log[state.durable..].iter();
        entries.filter_map(|entry| if let Entry::Step { id, .. } = entry { Some(*id) } else { None }).collect()
    }

    /// The power fails. Calls under way end uncertain, later ones do not reach it until [`LogLedger::restart`].
    pub fn crash(&self) {
        let mut state = self.lock();
        let at_risk = (state.log.len() - state.durable) as u64;
        let survive = state.durable + usize::try_from(state.random.below(at_risk + 1)).unwrap_or_default();
        state.log.truncate(survive);
        state.durable = survive;
        state.epoch += 1;
        state.is_up = false;
        state.table = Table::default();
    }

    /// It recovers from its log. With a survivor, it belongs to one process, and the claims of all others are orphans.
    pub fn restart(&self, survivor: Option<Owner>) {
        let mut state = self.lock();
        let State { log, table, is_up, .. } = &mut *state;
        *table = Table::default();
        log.iter().for_each(|entry| table.replay(entry));
        *is_up = true;
        let Some(survivor) = survivor else { return };
        let ids: Vec<_> = state.table.records.keys().copied().collect();
        for id in ids {
            // What is damaged stays as it is: nothing damages this log.
            let _ = state.carry_out(id, &Command::Orphan { survivor }, self.clock.now());
        }
        state.durable = state.log.len();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, while it can be reached.
    fn reach(&self) -> Result<MutexGuard<'_, State>, LedgerError> {
        let state = self.lock();
        if state.is_up { Ok(state) } else { Err(LedgerError::Unreachable("it has crashed".into())) }
    }

    /// Returns when everything before `position` is on the disk.
    async fn flushed(&self, position: Position) -> Result<(), LedgerError> {
        while !self.is_flushed(position)? {
            let _flushing = self.flushing.lock().await;
            if self.is_flushed(position)? {
                break;
            }
            let (takes, entries) = {
                let mut state = self.lock();
                (Duration::from_micros(state.random.below(self.flush_micros_max + 1)), state.log.len())
            };
            tokio::time::sleep(takes).await;
            let mut state = self.lock();
            if state.epoch == position.epoch {
                state.durable = state.durable.max(entries);
            }
        }
        Ok(())
    }

    fn is_flushed(&self, position: Position) -> Result<bool, LedgerError> {
        let state = self.lock();
        if state.epoch != position.epoch {
            return Err(LedgerError::Uncertain("it crashed before the flush returned".into()));
        }
        Ok(state.durable >= position.entries)
    }
}

impl State {
    fn here(&self) -> Position {
        Position { entries: self.log.len(), epoch: self.epoch }
    }

    fn read(&self, id: EffectId) -> Result<Option<Record>, LedgerError> {
        self.table.records.get(&id).map(|bytes| codec::decode_record(id, bytes)).transpose()
    }

    fn carry_out(&mut self, id: EffectId, command: &Command, now: Timestamp) -> Result<Applied, LedgerError> {
        let current = self.read(id)?;
        let fence = self.table.last_fence + 1;
        let decided = step(id, current.as_ref(), command, Moment { now, fence: Fence(fence) });
        let record = match decided.next {
            Next::Keep => current,
            Next::Put(record) => Some(*record),
            Next::Delete => None,
        };
        if decided.reply == Reply::Applied || decided.audit.is_some() || self.read(id)? != record {
            let encoded = record.as_ref().map(codec::encode_record);
            self.write(Entry::Step { id, record: encoded, fence, audit: decided.audit });
        }
        // What is over is not there for anybody, kept or not.
        let record = record.filter(|record| record.compacted(now).is_some());
        Ok(Applied { reply: decided.reply, seen: Seen { record, now } })
    }

    fn write(&mut self, entry: Entry) {
        self.table.replay(&entry);
        self.log.push(entry);
    }
}

impl Table {
    fn replay(&mut self, entry: &Entry) {
        match entry {
            Entry::Step { id, record, fence, audit } => {
                match record {
                    Some(record) => self.records.insert(*id, record.clone()),
                    None => self.records.remove(id),
                };
                self.last_fence = self.last_fence.max(*fence);
                self.audit.extend(audit.clone());
            }
            Entry::Contract { contract, audit } => {
                self.contracts.insert(contract.scope.clone(), contract.terms.clone());
                self.audit.extend(audit.clone());
            }
        }
    }

    fn differences(&self, contracts: &[Contract]) -> Vec<Difference> {
        let difference = |Contract { scope, terms: asked }: &Contract| {
            let held = self.contracts.get(scope).filter(|held| *held != asked)?;
            Some(Difference { scope: scope.clone(), held: held.clone(), asked: asked.clone() })
        };
        contracts.iter().filter_map(difference).collect()
    }
}

/// Gives a command the right of the newest claim.
fn forge(command: &mut Command, newest: Option<Fence>) {
    let (Command::Renew { fence, .. }
    | Command::Settle { fence, .. }
    | Command::Release { fence, .. }
    | Command::GiveUp { fence, .. }) = command
    else {
        return;
    };
    *fence = newest.unwrap_or(*fence);
}

impl Ledger for LogLedger {
    fn look_up(&self, id: EffectId) -> LedgerFuture<'_, Seen> {
        Box::pin(async move {
            let (seen, here) = {
                let state = self.reach()?;
                let now = self.clock.now();
                let record = state.read(id)?.filter(|record| record.compacted(now).is_some());
                (Seen { record, now }, state.here())
            };
            self.flushed(here).await?;
            Ok(seen)
        })
    }

    fn apply(&self, id: EffectId, mut command: Command) -> LedgerFuture<'_, Applied> {
        Box::pin(async move {
            let (applied, here) = {
                let mut state = self.reach()?;
                if self.ignores_fences {
                    forge(&mut command, state.read(id)?.map(|record| record.fence));
                }
                (state.carry_out(id, &command, self.clock.now())?, state.here())
            };
            // What is refused may rest on what is not flushed yet: it waits too.
            if !(self.answers_unflushed)(&command) {
                self.flushed(here).await?;
            }
            self.waiters.wake(id);
            Ok(applied)
        })
    }

    fn await_conclusion(&self, id: EffectId, within: Duration, max_waiters: usize) -> LedgerFuture<'_, Seen> {
        Box::pin(self.waiters.await_conclusion(self, id, within, max_waiters))
    }

    fn live(&self, after: Option<EffectId>, limit: usize) -> LedgerFuture<'_, Vec<Record>> {
        Box::pin(async move {
            let (live, here) = {
                let state = self.reach()?;
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let records = state.table.records.range((from, Bound::Unbounded));
                let records = records.map(|(id, bytes)| codec::decode_record(*id, bytes));
                let live: Result<Vec<_>, _> =
                    records.filter(|record| record.as_ref().map_or(true, Record::is_live)).take(limit).collect();
                (live?, state.here())
            };
            self.flushed(here).await?;
            Ok(live)
        })
    }

    fn audit_log(&self, after: u64, limit: usize) -> LedgerFuture<'_, Vec<(u64, AuditEvent)>> {
        Box::pin(async move {
            let state = self.reach()?;
            let skip = usize::try_from(after).unwrap_or(usize::MAX);
            Ok((1..).zip(state.table.audit.iter().cloned()).skip(skip).take(limit).collect())
        })
    }

    fn secret(&self) -> LookupSecret {
        self.secret.clone()
    }

    fn agree(&self, contracts: Vec<Contract>, migrate: Option<Authority>) -> LedgerFuture<'_, Vec<Difference>> {
        Box::pin(async move {
            let (differences, here) = {
                let mut state = self.reach()?;
                let differences = state.table.differences(&contracts);
                if !differences.is_empty() && migrate.is_none() {
                    return Ok(differences);
                }
                let at = self.clock.now();
                for contract in contracts {
                    let changed = differences.iter().any(|difference| difference.scope == contract.scope);
                    let detail = contract.scope.clone();
                    let audit = migrate.clone().filter(|_| changed).map(|by| AuditEvent {
                        at,
                        id: None,
                        fence: Fence(0),
                        kind: AuditKind::Migrated,
                        by,
                        detail,
                    });
                    state.write(Entry::Contract { contract, audit });
                }
                (differences, state.here())
            };
            self.flushed(here).await?;
            Ok(differences)
        })
    }

    fn health(&self) -> Health {
        if self.lock().is_up { Health::Ready } else { Health::Stopped("it has crashed".into()) }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
