//! Expired values vanish by compaction, by an injected clock, and only when that clock is trusted.

use crate::kv::{Operation, get, key, open, put, small};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

#[test]
fn what_has_expired_vanishes_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicU64::new(0));
    let mut options = small(dir.path());
    options.sweep_now = {
        let now = now.clone();
        // Zero stands for a clock that is not trusted.
        Arc::new(move || Some(now.load(Ordering::Relaxed)).filter(|&now| now > 0))
    };
    let store = open(&options);
    put(&store, key(1, "live"), b"never expires");
    // An older version below must not come back when the newer one goes.
    put(&store, key(2, "short"), b"old");
    assert!(store.checkpoint(Duration::from_secs(20)));
    for (name, at_ms) in [("short", 1000), ("long", 5000)] {
        let put = Operation::PutExpiring(key(2, name), at_ms, name.into());
        store.call_blocking(put).unwrap();
    }
    assert!(store.checkpoint(Duration::from_secs(20)));
    let there = |name| get(&store, &key(2, name)).is_some();

    store.rewrite().unwrap();
    assert!(there("short") && there("long"), "an untrusted clock sweeps nothing");
    now.store(999, Ordering::Relaxed);
    store.rewrite().unwrap();
    assert!(there("short"), "not before its time");
    now.store(1000, Ordering::Relaxed);
    store.rewrite().unwrap();
    assert!(!there("short") && there("long"));
    now.store(u64::MAX, Ordering::Relaxed);
    store.rewrite().unwrap();
    assert!(!there("long"));
    assert_eq!(get(&store, &key(1, "live")).unwrap(), b"never expires");
}
