//! Proof 12: thousands of keys, clients that retry, race, hang up and reuse keys, an upstream that misbehaves by plan,
//! and a gateway that is killed at random moments.
//!
//! `SEMEL_SEED` repeats a run's plan, `SEMEL_KEYS` makes it longer.

use crate::setup;
use crate::traffic::{Traffic, keys, seed};
use semel_testkit::oracle::OnUnknown;
use semel_testkit::plan::{Act, EVERYTHING, FAULTLESS, FaultPlan, Mix, REFUSALS, draw};
use semel_testkit::rig::Rig;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest time until a lease of a killed gateway has lapsed: its length (30 s) and some more.
const LEASE_BOUND: Duration = Duration::from_secs(45);

struct Run {
    mix: Mix,
    on_unknown: OnUnknown,
    keys: usize,
    kills: bool,
}

async fn run(run: Run) -> Rig {
    let seed = seed();
    let mut setup = setup().plan(FaultPlan::drawn(seed, run.mix, 3));
    setup.on_unknown = run.on_unknown;
    setup.timeout = r#"{ total = "5s", attempt = "1s" }"#;
    let mut rig = Rig::start(&setup).await.unwrap();
    let traffic = Traffic::new(seed, vec![rig.gateway.http()], run.keys);
    let working = Arc::new(AtomicBool::new(true));
    let mut callers = traffic.work(&rig);
    let all_done = {
        let working = Arc::clone(&working);
        tokio::spawn(async move {
            while let Some(worker) = callers.join_next().await {
                worker.unwrap();
            }
            working.store(false, Ordering::SeqCst);
        })
    };
    let mut moment = 0;
    while run.kills && working.load(Ordering::SeqCst) {
        moment += 1;
        tokio::time::sleep(Duration::from_millis(100 + draw(seed, "kill", moment) % 900)).await;
        rig.crash().unwrap();
    }
    all_done.await.unwrap();
    traffic.heal(&rig, LEASE_BOUND).await;
    rig
}

/// The rules hold, and the run was worth something.
fn judge(rig: &Rig, acts_min: usize) {
    let history = rig.history();
    let summary = history.summary();
    eprintln!("{summary}");
    history.assert_kept();
    assert!(summary.acts.len() >= acts_min, "only {} kinds of acts were met: {summary}", summary.acts.len());
    assert!(summary.ends.get("replayed").is_some_and(|replayed| *replayed >= summary.keys / 10), "{summary}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_executes_twice_under_hold_while_the_gateway_is_killed() {
    let rig = run(Run { mix: EVERYTHING, on_unknown: OnUnknown::Hold, keys: keys(3000), kills: true }).await;
    judge(&rig, EVERYTHING.len());
    assert!(rig.history().summary().outages >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_executes_twice_under_hold_without_kills() {
    let rig = run(Run { mix: EVERYTHING, on_unknown: OnUnknown::Hold, keys: keys(1500), kills: false }).await;
    judge(&rig, EVERYTHING.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_retry_every_call_succeeds_in_the_end() {
    let rig = run(Run { mix: EVERYTHING, on_unknown: OnUnknown::Retry, keys: keys(1500), kills: true }).await;
    judge(&rig, EVERYTHING.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_that_heal_before_the_deadline_succeed() {
    let rig = run(Run { mix: REFUSALS, on_unknown: OnUnknown::Hold, keys: keys(800), kills: false }).await;
    judge(&rig, REFUSALS.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_faults_every_key_settles() {
    let rig = run(Run { mix: FAULTLESS, on_unknown: OnUnknown::Hold, keys: keys(800), kills: false }).await;
    judge(&rig, 1);
    let summary = rig.history().summary();
    assert_eq!(summary.executions, summary.keys);
}

/// The proof of the proof: a route that wrongly takes 500 for "not executed" runs effects twice, and this is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oracle_sees_what_a_wrong_route_does() {
    let plan = (0..20).fold(FaultPlan::faultless(), |plan, n| plan.script(&format!("key-{n}"), &[Act::FailAfter]));
    let rig = Rig::prepare(&setup().plan(plan)).await.unwrap();
    let config = std::fs::read_to_string(rig.gateway.config()).unwrap();
    rig.gateway.configure(&config.replace("not_executed = [", "not_executed = [500, ")).unwrap();
    let mut rig = rig;
    tokio::task::block_in_place(|| rig.gateway.start()).unwrap();
    for n in 0..20 {
        rig.call(&format!("key-{n}")).await;
    }
    let violations = rig.history().violations();
    for rule in ["executes_once", "never_sent_again_under_hold"] {
        assert_eq!(violations.iter().filter(|found| found.invariant == rule).count(), 20, "{rule}: {violations:#?}");
    }
}
