//! Power loss at random moments under load, on a disk that forgets what was not flushed.

use crate::{
    kv::open,
    writers::{Told, busy, check, write},
};
use semel_testkit::power::{PowerDisk, unavailable};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

#[test]
fn what_was_acknowledged_survives_power_loss() {
    if let Some(reason) = unavailable() {
        semel_testkit::skipped(&reason);
        return;
    }
    let cycles: u64 = std::env::var("SEMEL_POWER_CYCLES").map_or(12, |text| text.parse().unwrap());
    let mut disk = PowerDisk::new(96).unwrap();
    let mut told = Told::default();
    let mut first = 0;
    for cycle in 0..cycles {
        let store = open(&busy(&disk.path().join("ledger")));
        check(&store, &mut told);
        let shared = Mutex::new(told);
        let (stop, acknowledgements) = (AtomicBool::new(false), AtomicU64::new(0));
        // Spread over the life of a checkpoint: a different number of writes in every cycle.
        let enough = 20 + cycle * 7919 % 1500;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Should the disk be slow, the cut comes anyway.
                semel_testkit::clock::wait_until(Duration::from_secs(10), || {
                    acknowledgements.load(Ordering::Relaxed) >= enough
                });
                disk.cut().unwrap();
                stop.store(true, Ordering::Relaxed);
            });
            write(&store, 8, first, &shared, &stop, &acknowledgements, &|_, _| {});
        });
        first += 1_000_000;
        told = shared.into_inner().unwrap();
        drop(store);
        disk.restore().unwrap();
    }
    let store = open(&busy(&disk.path().join("ledger")));
    check(&store, &mut told);
    assert!(told.acknowledged.len() > 100, "{} keys were written", told.acknowledged.len());
}
