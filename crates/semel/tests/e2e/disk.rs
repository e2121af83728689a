//! Proof 13, the disk: full, and without power.

use crate::{answer, expect, setup};
use semel_testkit::client::HangUp;
use semel_testkit::oracle::Reading;
use semel_testkit::plan::{Act, FaultPlan, draw};
use semel_testkit::power::{PowerDisk, SmallDisk, unavailable};
use semel_testkit::rig::{PATIENCE, PAYLOAD, Rig};
use semel_testkit::skipped;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Power cuts in one run.
const CUTS: u32 = 12;
/// Callers that work while the power is cut.
const CALLERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_settlements_survive_power_loss() {
    if let Some(reason) = unavailable() {
        return skipped(&reason);
    }
    let seed = std::env::var("SEMEL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(std::process::id().into());
    eprintln!("seed {seed} (SEMEL_SEED={seed} repeats it)");
    let mut disk = PowerDisk::new(256).unwrap();
    let mut setup = setup().plan(FaultPlan::faultless());
    setup.plan.seed = seed;
    setup.ledger = Some(disk.path().join("ledger"));
    let mut rig = Rig::start(&setup).await.unwrap();
    for cut in 0..CUTS {
        let working = Arc::new(AtomicBool::new(true));
        let mut callers = load(&rig, cut, &working);
        tokio::time::sleep(Duration::from_millis(20 + draw(seed, "cut", cut) % 300)).await;
        let from_us = rig.oracle.now_us();
        disk.cut().unwrap();
        // What is answered between the cut and the kill was durable before, or must not have been answered.
        tokio::time::sleep(Duration::from_millis(draw(seed, "kill", cut) % 30)).await;
        tokio::task::block_in_place(|| {
            rig.gateway.kill().unwrap();
            working.store(false, Ordering::SeqCst);
            disk.restore().unwrap();
            rig.gateway.start().unwrap();
        });
        rig.oracle.was_down(from_us);
        while let Some(caller) = callers.join_next().await {
            caller.unwrap();
        }
    }
    // Every key is asked again: what was acknowledged before any cut is replayed.
    let keys: Vec<String> = rig.history().keys().keys().map(|key| (*key).to_owned()).collect();
    let mut caller = rig.caller();
    let mut replayed = 0;
    for key in &keys {
        replayed += usize::from(Reading::of(&caller.call(key, PAYLOAD, HangUp::Never).await).replayed);
    }
    let history = rig.history();
    eprintln!("{replayed} of {} keys replayed after {CUTS} power cuts\n{}", keys.len(), history.summary());
    history.assert_kept();
    assert!(replayed >= 100, "too little was acknowledged to prove anything: {replayed}");
}

fn load(rig: &Rig, cut: u32, working: &Arc<AtomicBool>) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for n in 0..CALLERS {
        let (mut caller, working) = (rig.caller(), Arc::clone(working));
        callers.spawn(async move {
            let mut count = 0;
            while working.load(Ordering::SeqCst) {
                count += 1;
                caller.call(&format!("power-{cut}-{n}-{count}"), PAYLOAD, HangUp::Never).await;
            }
        });
    }
    callers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_claims_and_still_takes_settlements() {
    if let Some(reason) = unavailable() {
        return skipped(&reason);
    }
    let disk = SmallDisk::new(256).unwrap();
    let mut setup = setup().plan(FaultPlan::faultless().script("begun", &[Act::Late]));
    setup.ledger = Some(disk.path().join("ledger"));
    setup.disk_reserve = "32MiB";
    let mut rig = Rig::start(&setup).await.unwrap();
    expect(&rig.call("before").await, 201, "committed", false);
    let mut caller = rig.caller();
    let begun = tokio::spawn(async move { caller.call("begun", PAYLOAD, HangUp::Never).await });
    rig.arrived("begun", 1).await;
    disk.leave_free(16 << 20).unwrap();
    expect(&begun.await.unwrap(), 201, "committed", false);
    let mut n = 0;
    // The reserve is looked at now and then, not on every claim.
    let refused = async {
        loop {
            n += 1;
            let end = rig.call(&format!("full-{n}")).await;
            if answer(&end).status() == 503 {
                return end;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.expect("claims go on below the disk reserve");
    expect(&refused, 503, "disk-reserve", false);
    assert_eq!(rig.arrivals(&format!("full-{n}")), 0);
    expect(&rig.call("before").await, 201, "committed", true);
    expect(&rig.call("begun").await, 201, "committed", true);
    disk.free().unwrap();
    let freed = async { while answer(&rig.call("freed").await).status() != 201 {} };
    tokio::time::timeout(PATIENCE, freed).await.expect("claims go on when there is space again");
    rig.crash().unwrap();
    expect(&rig.call("begun").await, 201, "committed", true);
    assert_eq!((rig.executions("begun"), rig.executions("before")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_a_byte_left_loses_nothing_that_was_acknowledged() {
    if let Some(reason) = unavailable() {
        return skipped(&reason);
    }
    let disk = SmallDisk::new(64).unwrap();
    let mut setup = setup();
    setup.ledger = Some(disk.path().join("ledger"));
    let mut rig = Rig::start(&setup).await.unwrap();
    for n in 0..50 {
        expect(&rig.call(&format!("kept-{n}")).await, 201, "committed", false);
    }
    disk.leave_free(0).unwrap();
    let filled = (0..2000).map(|n| format!("filled-{n}"));
    for key in filled {
        if answer(&rig.call(&key).await).status() != 201 {
            break;
        }
    }
    disk.free().unwrap();
    rig.crash().unwrap();
    let keys: Vec<String> = rig.history().keys().keys().map(|key| (*key).to_owned()).collect();
    for key in &keys {
        rig.call(key).await;
        assert!(rig.executions(key) <= 1, "{key}");
    }
    expect(&rig.call("kept-0").await, 201, "committed", true);
}
