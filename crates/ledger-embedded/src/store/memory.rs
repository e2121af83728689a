//! What the log holds beyond the table, in memory: one generation being filled, one being checkpointed.
//!
//! An own map instead of the tree's memtable: a key that was created and deleted within one generation (a claim that
//! settled) leaves nothing behind, so most live records never reach a table, nor does a tombstone.

use super::key::Key;
use crate::log::Entry;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The newest state of a key.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// The stored value; `None`: deleted.
    pub(crate) stored: Option<Bytes>,
    /// Whether an older generation or the table may hold the key, so that a deletion needs a tombstone.
    pub(crate) below: bool,
}

/// Batches `first ..= last` applied.
#[derive(Debug, Default)]
pub(crate) struct Generation {
    pub(crate) slots: FxHashMap<Key, Slot>,
    /// Bytes of the batches that the values are slices of, and of the slots.
    pub(crate) bytes: usize,
    /// Bytes that its batches take in the log.
    pub(crate) log_bytes: u64,
    pub(crate) last: u64,
}

/// What a slot costs beside its value.
const SLOT_BYTES: usize = 128;

impl Generation {
    pub(crate) fn put(&mut self, key: Key, stored: Bytes, below: bool) {
        let below = self.slots.get(&key).map_or(below, |slot| slot.below);
        if self.slots.insert(key, Slot { stored: Some(stored), below }).is_none() {
            self.bytes += SLOT_BYTES;
        }
    }

    pub(crate) fn delete(&mut self, key: &Key, below: bool) {
        let below = self.slots.get(key).map_or(below, |slot| slot.below);
        if below {
            if self.slots.insert(*key, Slot { stored: None, below }).is_none() {
                self.bytes += SLOT_BYTES;
            }
        } else if self.slots.remove(key).is_some() {
            self.bytes = self.bytes.saturating_sub(SLOT_BYTES);
        }
    }

    /// Applies a replayed batch. What lies below is not known then, so a deletion leaves a tombstone.
    pub(crate) fn replay(&mut self, number: u64, batch_bytes: usize, entries: Vec<Entry>) {
        for entry in entries {
            match entry {
                Entry::Put(key, stored) => self.put(key, stored, true),
                Entry::Delete(key) => self.delete(&key, true),
            }
        }
        self.note_batch(number, batch_bytes);
    }

    /// Counts a batch whose entries were applied.
    pub(crate) fn note_batch(&mut self, number: u64, batch_bytes: usize) {
        self.bytes += batch_bytes;
        self.log_bytes += batch_bytes.next_multiple_of(crate::disk::BLOCK) as u64;
        self.last = number;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Generations {
    pub(crate) active: Generation,
    pub(crate) sealed: Option<Arc<Generation>>,
}

/// Where a key was found.
#[derive(Debug)]
pub(crate) enum Found {
    Active(Slot),
    Sealed(Slot),
    Nowhere,
}

/// The generations, for one writer (the committer) and any number of readers.
#[derive(Debug, Default)]
pub(crate) struct Memory(RwLock<Generations>);

impl Memory {
    pub(crate) fn new(active: Generation) -> Self {
        Self(RwLock::new(Generations { active, sealed: None }))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Generations> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Generations> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, key: &[u8]) -> Found {
        let generations = self.read();
        if let Some(slot) = generations.active.slots.get(key) {
            return Found::Active(slot.clone());
        }
        match generations.sealed.as_ref().and_then(|sealed| sealed.slots.get(key)) {
            Some(slot) => Found::Sealed(slot.clone()),
            None => Found::Nowhere,
        }
    }

    /// Every key from `from` on that starts with `prefix`, sorted, with its newest state.
    pub(crate) fn snapshot(&self, prefix: &[u8], from: &[u8]) -> Vec<(Key, Slot)> {
        let wanted = |key: &Key| key.as_ref().starts_with(prefix) && key.as_ref() >= from;
        let mut all: Vec<(Key, Slot)> = {
            let generations = self.read();
            let active = &generations.active.slots;
            let older = generations.sealed.iter().flat_map(|sealed| &sealed.slots);
            let older = older.filter(|(key, _)| wanted(key) && !active.contains_key(*key));
            let newest = active.iter().filter(|(key, _)| wanted(key));
            newest.chain(older).map(|(key, slot)| (*key, slot.clone())).collect()
        };
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }
}
