//! A ledger on a simulated log that loses unsynced writes.

use super::{Dice, Life, VirtualClock};
use semel_core::effect::{AuditEvent, Authority, Command, Fence, Moment, Next, Record, step};
use semel_core::scope::{EffectId, LookupSecret};
use semel_core::time::Timestamp;
use semel_ledger::{
    Applied, Clock, Contract, Difference, Health, Ledger, LedgerError, LedgerFuture, Seen, Waiters, codec,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest simulated flush.
const FLUSH_MAX: Duration = Duration::from_millis(6);

/// When a simulated ledger answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// When the write is durable, as the contract demands.
    AfterFlush,
    /// At once: the defect that a simulation must be able to find.
    BeforeFlush,
}

/// A disk with a log: what was flushed survives, of the rest a prefix of any length.
#[derive(Clone, Debug, Default)]
pub struct LogDisk(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    durable: BTreeMap<EffectId, Vec<u8>>,
    unsynced: VecDeque<(EffectId, Option<Vec<u8>>)>,
    /// Writes that have become durable, counted over all lives.
    synced: u64,
    /// Never goes back, as an engine must see to by reserving fences durably.
    last_fence: u64,
}

impl LogDisk {
    /// The machine dies: a prefix of the unsynced writes, drawn by `dice`, is found again; the rest is lost.
    pub fn crash(&self, dice: &Dice) {
        let mut disk = self.lock();
        let kept = dice.below(disk.unsynced.len() as u64 + 1);
        for _ in 0..kept {
            disk.sync_one();
        }
        disk.unsynced.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn sync_one(&mut self) {
        match self.unsynced.pop_front() {
            Some((id, Some(record))) => drop(self.durable.insert(id, record)),
            Some((id, None)) => drop(self.durable.remove(&id)),
            None => return,
        }
        self.synced += 1;
    }
}

/// The model ledger on a [`LogDisk`]: decides on what is written, shows and answers what is durable.
///
/// The store has a life of its own, and so has each gateway that uses it: see [`LogLedger::connect`].
pub struct LogLedger {
    store: Arc<Store>,
    user: Life,
}

struct Store {
    disk: LogDisk,
    written: Mutex<BTreeMap<EffectId, Vec<u8>>>,
    life: Life,
    clock: VirtualClock,
    dice: Mutex<Dice>,
    answers: Answers,
    waiters: Waiters,
}

impl LogLedger {
    /// Opens what is durable on `disk`, in a process that lives as long as `life`.
    #[must_use]
    pub fn open(disk: &LogDisk, life: &Life, clock: VirtualClock, dice: Dice, answers: Answers) -> Self {
        let written = Mutex::new(disk.lock().durable.clone());
        let (disk, dice, waiters) = (disk.clone(), Mutex::new(dice), Waiters::default());
        let store = Store { disk, written, life: life.clone(), clock, dice, answers, waiters };
        Self { store: Arc::new(store), user: life.clone() }
    }

    /// The same store as a process with a life of its own sees it.
    #[must_use]
    pub fn connect(&self, user: &Life) -> Self {
        Self { store: Arc::clone(&self.store), user: user.clone() }
    }

    /// Neither the store nor its user takes a step after its end.
    async fn step(&self) {
        self.store.life.step(&self.store.clock).await;
        self.user.step(&self.store.clock).await;
    }

    async fn carry_out(&self, id: EffectId, command: Command) -> Result<Applied, LedgerError> {
        let store = &self.store;
        self.step().await;
        let (applied, until) = store.write(id, &command)?;
        if store.answers == Answers::AfterFlush {
            store.flush(until).await;
        }
        store.waiters.wake(id);
        self.step().await;
        Ok(applied)
    }
}

impl Store {
    fn draw(&self, bound: u64) -> u64 {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).below(bound)
    }

    fn durable(&self, id: EffectId) -> Result<Seen, LedgerError> {
        let now = self.clock.now();
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let disk = self.disk.lock();
        let shown = if self.answers == Answers::BeforeFlush { &*written } else { &disk.durable };
        let record = shown.get(&id).map(|bytes| codec::decode_record(id, bytes)).transpose()?;
        Ok(Seen { record: record.filter(|record| record.compacted(now).is_some()), now })
    }

    /// Decides and writes; returns the answer and how many writes must be durable before it may be given.
    fn write(&self, id: EffectId, command: &Command) -> Result<(Applied, u64), LedgerError> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let mut disk = self.disk.lock();
        let now = self.clock.now();
        let current = written.get(&id).map(|bytes| codec::decode_record(id, bytes)).transpose()?;
        disk.last_fence += 1;
        let decided = step(id, current.as_ref(), command, Moment { now, fence: Fence(disk.last_fence) });
        let record = match decided.next {
            Next::Keep => current,
            Next::Put(record) => {
                let bytes = codec::encode_record(&record);
                written.insert(id, bytes.clone());
                disk.unsynced.push_back((id, Some(bytes)));
                Some(*record)
            }
            Next::Delete => {
                written.remove(&id);
                disk.unsynced.push_back((id, None));
                None
            }
        };
        let until = disk.synced + disk.unsynced.len() as u64;
        Ok((Applied { reply: decided.reply, seen: Seen { record, now } }, until))
    }

    async fn flush(&self, until: u64) {
        let most = u64::try_from(FLUSH_MAX.as_micros()).unwrap_or(1);
        tokio::time::sleep(Duration::from_micros(100 + self.draw(most))).await;
        self.life.step(&self.clock).await;
        let mut disk = self.disk.lock();
        while disk.synced < until && !disk.unsynced.is_empty() {
            disk.sync_one();
        }
    }
}

impl Ledger for LogLedger {
    fn look_up(&self, id: EffectId) -> LedgerFuture<'_, Seen> {
        Box::pin(async move {
            self.step().await;
            self.store.durable(id)
        })
    }

    fn apply(&self, id: EffectId, command: Command) -> LedgerFuture<'_, Applied> {
        Box::pin(self.carry_out(id, command))
    }

    fn await_conclusion(&self, id: EffectId, within: Duration, max_waiters: usize) -> LedgerFuture<'_, Seen> {
        Box::pin(async move {
            self.step().await;
            let seen = self.store.waiters.await_conclusion(self, id, within, max_waiters).await;
            self.step().await;
            seen
        })
    }

    fn live(&self, after: Option<EffectId>, limit: usize) -> LedgerFuture<'_, Vec<Record>> {
        Box::pin(async move {
            let disk = self.store.disk.lock();
            let mut live = Vec::new();
            for (id, bytes) in disk.durable.iter().filter(|(id, _)| after.is_none_or(|after| **id > after)) {
                let record = codec::decode_record(*id, bytes)?;
                if record.is_live() && live.len() < limit {
                    live.push(record);
                }
            }
            Ok(live)
        })
    }

    fn audit_log(&self, _: u64, _: usize) -> LedgerFuture<'_, Vec<(u64, AuditEvent)>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn secret(&self) -> LookupSecret {
        LookupSecret::from_bytes([7; LookupSecret::BYTES])
    }

    fn agree(&self, _: Vec<Contract>, _: Option<Authority>) -> LedgerFuture<'_, Vec<Difference>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn health(&self) -> Health {
        Health::Ready
    }

    fn now(&self) -> Timestamp {
        self.store.clock.now()
    }
}
