//! The simplest machine over a store: plain keys and values, and a compare-and-set.

use semel_ledger_embedded::{
    Error,
    store::{Fate, Key, Machine, Options, Store, Transaction, View},
};
use std::{
    path::Path,
    sync::{Arc, Mutex},
};

pub(crate) enum Operation {
    /// Writes all of these in one batch entry: a value, or a deletion.
    Write(Vec<(Key, Option<Vec<u8>>)>),
    /// Puts a value with an expiry.
    PutExpiring(Key, u64, Vec<u8>),
    /// Reads, and writes if what is there is what is expected. Answers what was there.
    CompareAndSet(Key, Option<Vec<u8>>, Option<Vec<u8>>),
}

#[derive(Default, Clone)]
pub(crate) struct Kv {
    /// What became of each batch.
    pub(crate) fates: Arc<Mutex<Vec<Fate>>>,
}

impl Machine for Kv {
    type Operation = Operation;
    type Answer = Option<Vec<u8>>;

    fn decide(&mut self, operation: Operation, transaction: &mut Transaction<'_>) -> Result<Self::Answer, Error> {
        match operation {
            Operation::Write(writes) => {
                for (key, value) in writes {
                    write(transaction, &key, value);
                }
                Ok(None)
            }
            Operation::PutExpiring(key, at_ms, value) => {
                transaction.put(&key, Some(at_ms), |out| out.extend_from_slice(&value));
                Ok(None)
            }
            Operation::CompareAndSet(key, expected, value) => {
                let found = transaction.get(&key)?.map(|value| value.body.to_vec());
                if found == expected {
                    write(transaction, &key, value);
                }
                Ok(found)
            }
        }
    }

    fn concluded(&mut self, fate: Fate) {
        self.fates.lock().unwrap().push(fate);
    }

    fn recover(&mut self, _: &View) -> Result<Vec<Operation>, Error> {
        Ok(Vec::new())
    }
}

fn write(transaction: &mut Transaction<'_>, key: &Key, value: Option<Vec<u8>>) {
    match value {
        Some(value) => transaction.put(key, None, |out| out.extend_from_slice(&value)),
        None => transaction.delete(key),
    }
}

pub(crate) fn key(space: u8, name: impl AsRef<[u8]>) -> Key {
    Key::from_parts(&[&[space], name.as_ref()]).unwrap()
}

/// A store whose parts are so small that a few hundred writes go through all of them.
pub(crate) fn small(dir: &Path) -> Options {
    let mut options = Options::new(dir);
    options.segment_bytes = 64 << 10;
    options.memory_bytes = 16 << 10;
    options.checkpoint_log_bytes = 128 << 10;
    options.table_bytes = 64 << 10;
    options.cache_bytes = 64 << 10;
    options.disk_reserve_bytes = 0;
    options
}

pub(crate) fn open(options: &Options) -> Store<Kv> {
    Store::open(options, Kv::default()).unwrap()
}

pub(crate) fn put(store: &Store<Kv>, key: Key, value: &[u8]) {
    store.call_blocking(Operation::Write(vec![(key, Some(value.to_vec()))])).unwrap();
}

pub(crate) fn get(store: &Store<Kv>, key: &Key) -> Option<Vec<u8>> {
    store.get(key).unwrap().map(|value| value.body.to_vec())
}
