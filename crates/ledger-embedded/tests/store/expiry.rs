//! Expired values vanish by compaction, by an injected clock, and only when that clock is trusted.

use crate::kv::{Operation, get, key, open, put, small};
use semel_ledger_embedded::store::{Expired, Sweeper};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A clock that is moved by hand; zero stands for one that is not trusted.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl Sweeper for Hand {
    fn now_ms(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&now| now > 0)
    }

    fn expire(&self, _: &[u8], body: &[u8], now_ms: u64) -> Expired {
        match body {
            b"shrinks" => Expired::Replace { expires_at_ms: Some(now_ms + 1000), body: b"marker".to_vec() },
            b"odd" => Expired::Keep,
            _ => Expired::Vanish,
        }
    }
}

#[test]
fn what_has_expired_vanishes_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let now = Hand::default();
    let mut options = small(dir.path());
    options.sweeper = Arc::new(now.clone());
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
    now.0.store(999, Ordering::Relaxed);
    store.rewrite().unwrap();
    assert!(there("short"), "not before its time");
    now.0.store(1000, Ordering::Relaxed);
    store.rewrite().unwrap();
    assert!(!there("short") && there("long"));
    now.0.store(u64::MAX, Ordering::Relaxed);
    store.rewrite().unwrap();
    assert!(!there("long"));
    assert_eq!(get(&store, &key(1, "live")).unwrap(), b"never expires");
}

#[test]
fn a_value_may_leave_a_smaller_one_behind() {
    let dir = tempfile::tempdir().unwrap();
    let now = Hand::default();
    let mut options = small(dir.path());
    options.sweeper = Arc::new(now.clone());
    let store = open(&options);
    for name in ["shrinks", "odd"] {
        store.call_blocking(Operation::PutExpiring(key(2, name), 1000, name.into())).unwrap();
    }
    assert!(store.checkpoint(Duration::from_secs(20)));
    let body = |name| get(&store, &key(2, name));
    now.0.store(1000, Ordering::Relaxed);
    store.rewrite().unwrap();
    assert_eq!(body("shrinks").unwrap(), b"marker");
    now.0.store(1999, Ordering::Relaxed);
    store.rewrite().unwrap();
    assert_eq!(body("shrinks").unwrap(), b"marker");
    now.0.store(2000, Ordering::Relaxed);
    store.rewrite().unwrap();
    assert_eq!(body("shrinks"), None);
    assert_eq!(body("odd").unwrap(), b"odd");
}
