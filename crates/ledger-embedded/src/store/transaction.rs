//! What a decision sees and changes: the durable state with the batch's own pending writes on top.

use super::{
    Shared,
    key::Key,
    memory::Found,
    value::{self, Value},
};
use crate::{
    error::Error,
    log::{BatchBuffer, batch::Savepoint, batch::Span},
};
use bytes::Bytes;
use rustc_hash::FxHashMap;

/// What the batch knows of a key.
#[derive(Debug, Clone, Default)]
struct Pending {
    write: Option<Write>,
    /// What is durable, if it was looked up; `None`: not looked up.
    base: Option<Base>,
}

#[derive(Debug, Clone)]
struct Base {
    stored: Option<Bytes>,
    below: bool,
}

#[derive(Debug, Clone, Copy)]
enum Write {
    Put(Span),
    Delete,
}

/// The batch that the committer is deciding.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) buffer: BatchBuffer,
    pending: FxHashMap<Key, Pending>,
    undo: Vec<(Key, Option<Write>)>,
    /// Operations decided so far.
    operations: u32,
}

impl Batch {
    /// Applies the committed batch to memory: `bytes` is the buffer as it was written.
    pub(crate) fn apply(&mut self, shared: &Shared, bytes: &Bytes, number: u64) {
        let mut generations = shared.memory.write();
        let active = &mut generations.active;
        for (key, pending) in self.pending.drain() {
            let below = pending.base.is_none_or(|base| base.below);
            match pending.write {
                Some(Write::Put(span)) => active.put(key, bytes.slice(span.start..span.end), below),
                Some(Write::Delete) => active.delete(&key, below),
                None => {}
            }
        }
        active.note_batch(number, bytes.len());
        drop(generations);
        self.forget();
    }

    /// Forgets what was looked up: the next batch begins.
    pub(crate) fn forget(&mut self) {
        self.operations = 0;
        self.pending.clear();
        self.undo.clear();
    }
}

/// One operation's view of the batch. What it wrote is undone if the decision fails.
pub struct Transaction<'a> {
    shared: &'a Shared,
    batch: &'a mut Batch,
    savepoint: Savepoint,
    sequence: u64,
}

/// Bits of a sequence number that count the operations of one batch.
const OPERATION_BITS: u32 = 20;

impl<'a> Transaction<'a> {
    pub(crate) fn begin(shared: &'a Shared, batch: &'a mut Batch, number: u64) -> Self {
        batch.undo.clear();
        batch.operations += 1;
        let savepoint = batch.buffer.savepoint();
        let sequence = Self::first_sequence(number) | u64::from(batch.operations);
        Self { shared, batch, savepoint, sequence }
    }

    /// The smallest sequence number of batch `number`.
    pub(crate) fn first_sequence(number: u64) -> u64 {
        number << OPERATION_BITS
    }

    /// A number greater than that of every operation that was committed before, in this ledger's whole life. It is
    /// this operation's for good once it is committed; if it writes nothing, the next one may get the same.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The value of `key`: what this batch wrote, else what is durable.
    ///
    /// # Errors
    /// [`Error::Damaged`] if what is stored cannot be read back whole: the caller must treat the key as unknown.
    pub fn get(&mut self, key: &Key) -> Result<Option<Value>, Error> {
        let pending = self.batch.pending.entry(*key).or_default();
        let stored = match pending.write {
            Some(Write::Put(span)) => Some(Bytes::copy_from_slice(self.batch.buffer.get(span))),
            Some(Write::Delete) => None,
            None => {
                if pending.base.is_none() {
                    pending.base = Some(look_up(self.shared, key)?);
                }
                pending.base.as_ref().and_then(|base| base.stored.clone())
            }
        };
        self.shared.decode(key.as_ref(), stored)
    }

    /// Puts a value whose body `write` appends to the buffer it is given. `expires_at_ms`: see [`Value`].
    pub fn put(&mut self, key: &Key, expires_at_ms: Option<u64>, write: impl FnOnce(&mut Vec<u8>)) {
        let span = self.batch.buffer.put(key, |out| value::encode(out, key, expires_at_ms, write));
        self.note(key, Write::Put(span));
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: &Key) {
        self.batch.buffer.delete(key);
        self.note(key, Write::Delete);
    }

    /// Whether only settlements may be written, because the disk is nearly full.
    #[must_use]
    pub fn is_disk_low(&self) -> bool {
        self.shared.is_disk_low()
    }

    fn note(&mut self, key: &Key, write: Write) {
        let pending = self.batch.pending.entry(*key).or_default();
        self.batch.undo.push((*key, pending.write.replace(write)));
    }

    /// Bytes this operation added to the batch.
    pub(crate) fn len(&self) -> usize {
        self.batch.buffer.len() - self.savepoint.len()
    }

    /// Takes back all that this operation wrote.
    pub(crate) fn rollback(self) {
        self.batch.buffer.rollback(self.savepoint);
        while let Some((key, write)) = self.batch.undo.pop() {
            if let Some(pending) = self.batch.pending.get_mut(&key) {
                pending.write = write;
            }
        }
    }
}

fn look_up(shared: &Shared, key: &Key) -> Result<Base, Error> {
    Ok(match shared.memory.find(key.as_ref()) {
        Found::Active(slot) => Base { stored: slot.stored, below: slot.below },
        Found::Sealed(slot) => Base { stored: slot.stored, below: true },
        Found::Nowhere => {
            let stored = shared.table.get(key.as_ref())?;
            Base { below: stored.is_some(), stored }
        }
    })
}
