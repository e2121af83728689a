//! Reading many records in the order of their keys.

use super::{
    Machine, Shared, Store,
    key::Key,
    memory::Slot,
    value::{self, Value},
};
use crate::{error::Error, table::Table};
use bytes::Bytes;
use std::{iter::Peekable, path::PathBuf, sync::Arc, vec};

type TableItem = Result<(Bytes, Bytes), Error>;

/// The durable records of a key space as of one moment, in the order of their keys. A record that cannot be read back
/// whole is an error item, and the scan goes on behind it where it can.
pub struct Scan {
    dir: PathBuf,
    memory: Peekable<vec::IntoIter<(Key, Slot)>>,
    table: Peekable<Box<dyn Iterator<Item = TableItem> + Send>>,
    failed: bool,
}

/// What is durable, for reading.
pub struct View(pub(crate) Arc<Shared>);

impl View {
    /// The durable value of a key.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        self.0.get(key)
    }

    /// Every durable record from `from` on whose key starts with `prefix`.
    #[must_use]
    pub fn scan(&self, prefix: &[u8], from: &[u8]) -> Scan {
        Scan::new(&self.0, prefix, from)
    }
}

impl<M: Machine> Store<M> {
    /// Every durable record from `from` on whose key starts with `prefix`.
    pub fn scan(&self, prefix: &[u8], from: &[u8]) -> Scan {
        Scan::new(&self.shared, prefix, from)
    }
}

impl Scan {
    pub(crate) fn new(shared: &Arc<Shared>, prefix: &[u8], from: &[u8]) -> Self {
        // Memory first: what moves to the table in between is then seen twice, never not at all.
        let memory = shared.memory.snapshot(prefix, from);
        Self::over(memory, &shared.table, prefix, from, shared.dir.clone())
    }

    /// A scan of a table with what memory holds on top.
    pub(crate) fn over(memory: Vec<(Key, Slot)>, table: &Table, prefix: &[u8], from: &[u8], dir: PathBuf) -> Self {
        let table: Box<dyn Iterator<Item = TableItem> + Send> = Box::new(table.range(prefix, from));
        Self { dir, memory: memory.into_iter().peekable(), table: table.peekable(), failed: false }
    }

    /// The newer of the two sources' next records; memory shadows the table.
    fn next_stored(&mut self) -> Option<Result<(Bytes, Option<Bytes>), Error>> {
        let from_memory = match (self.memory.peek(), self.table.peek()) {
            (_, Some(Err(_))) | (None, _) => false,
            (Some(_), None) => true,
            (Some((key, _)), Some(Ok((table_key, _)))) => {
                if key.as_ref() == table_key.as_ref() {
                    self.table.next();
                    true
                } else {
                    key.as_ref() < table_key.as_ref()
                }
            }
        };
        if from_memory {
            let (key, slot) = self.memory.next()?;
            return Some(Ok((Bytes::copy_from_slice(key.as_ref()), slot.stored)));
        }
        Some(self.table.next()?.map(|(key, stored)| (key, Some(stored))))
    }
}

impl Iterator for Scan {
    type Item = Result<(Key, Value), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.next_stored()? {
                Ok((_, None)) => {}
                Ok((key, Some(stored))) => {
                    let whole = Key::new(&key).zip(value::decode(&key, stored));
                    let damaged =
                        || Error::damaged(&self.dir, format!("record {} fails its check", key.escape_ascii()));
                    return Some(whole.ok_or_else(damaged));
                }
                Err(error) => {
                    // The tree's iterator does not go on behind a damaged block.
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
