//! Writers that remember what they were told, and the check that all of it is there.

use crate::kv::{Kv, Operation, key};
use semel_ledger_embedded::store::{Key, Options, Store};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// What was acknowledged (value or deletion), by key; and what was asked for but not answered.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) acknowledged: BTreeMap<Key, Option<u64>>,
    pub(crate) in_doubt: BTreeMap<Key, Option<u64>>,
}

/// Sizes that let checkpoints, compactions and recycling happen all the time.
pub(crate) fn busy(dir: &Path) -> Options {
    let mut options = crate::kv::small(dir);
    options.segment_bytes = 256 << 10;
    options.memory_bytes = 64 << 10;
    options.checkpoint_log_bytes = 512 << 10;
    options
}

/// Each writer owns its keys, so that their order is the order of its calls.
pub(crate) fn target(writer: u64, n: u64) -> Key {
    key(if n.is_multiple_of(3) { 1 } else { 2 }, [writer.to_be_bytes(), (n % 200).to_be_bytes()].concat())
}

pub(crate) fn value(version: u64) -> Vec<u8> {
    version.to_le_bytes().repeat(1 + usize::try_from(version % 60).unwrap())
}

/// Writes from `writers` threads until a call fails or `stop` says so; `note` is called for every acknowledgement.
pub(crate) fn write(
    store: &Store<Kv>,
    writers: u64,
    first: u64,
    told: &Mutex<Told>,
    stop: &AtomicBool,
    acknowledgements: &AtomicU64,
    note: &(dyn Fn(u64, u64) + Sync),
) {
    std::thread::scope(|scope| {
        for writer in 0..writers {
            scope.spawn(move || {
                for n in first.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (key, version) = (target(writer, n), (n % 5 != 4).then_some(n));
                    told.lock().unwrap().in_doubt.insert(key, version);
                    let write = Operation::Write(vec![(key, version.map(value))]);
                    if store.call_blocking(write).is_err() {
                        return;
                    }
                    note(writer, n);
                    let mut told = told.lock().unwrap();
                    told.in_doubt.remove(&key);
                    told.acknowledged.insert(key, version);
                    drop(told);
                    acknowledgements.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
}

/// Everything acknowledged is there; what is in doubt is there or not. Settles the doubts by what is found.
pub(crate) fn check(store: &Store<Kv>, told: &mut Told) {
    for (key, doubt) in std::mem::take(&mut told.in_doubt) {
        let found = store.get(&key).unwrap().map(|value| value.body.to_vec());
        let before = told.acknowledged.get(&key).copied().flatten();
        let fits = found == doubt.map(value) || found == before.map(value);
        assert!(fits, "{key:?} is neither what it was ({before:?}) nor what was asked for ({doubt:?})");
        let now = found.map(|bytes| u64::from_le_bytes(bytes[..8].try_into().unwrap()));
        told.acknowledged.insert(key, now);
    }
    for (key, version) in &told.acknowledged {
        let found = store.get(key).unwrap().map(|value| value.body.to_vec());
        assert_eq!(found, version.map(value), "{key:?}: version {version:?} was acknowledged");
    }
    let there = told.acknowledged.values().flatten().count();
    assert_eq!(store.scan(&[], &[]).filter(Result::is_ok).count(), there);
}
