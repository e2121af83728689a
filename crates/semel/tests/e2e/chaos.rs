//! Proof 12: thousands of keys, clients that retry, race, hang up and reuse keys, an upstream that misbehaves by plan,
//! and a gateway that is killed at random moments.
//!
//! `SEMEL_SEED` repeats a run's plan, `SEMEL_KEYS` makes it longer.

use crate::setup;
use semel_testkit::client::{End, HangUp};
use semel_testkit::oracle::{OnUnknown, Reading};
use semel_testkit::plan::{Act, EVERYTHING, FAULTLESS, FaultPlan, Mix, REFUSALS, draw};
use semel_testkit::rig::{Caller, PATIENCE, PAYLOAD, Rig};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Callers that work at a time.
const CALLERS: usize = 24;
/// Callers that race on one key.
const RACERS: usize = 64;
/// The body of a call that reuses a key for something else.
const OTHER_PAYLOAD: &str = r#"{"amount":999}"#;
/// Longest time until a lease of a killed gateway has lapsed: its length (30 s) and some more.
const LEASE_BOUND: Duration = Duration::from_secs(45);

struct Run {
    mix: Mix,
    on_unknown: OnUnknown,
    keys: usize,
    kills: bool,
}

fn seed() -> u64 {
    let given = std::env::var("SEMEL_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32)
}

fn keys(default: usize) -> usize {
    std::env::var("SEMEL_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(default)
}

async fn run(run: Run) -> Rig {
    let seed = seed();
    eprintln!("seed {seed} (SEMEL_SEED={seed} repeats the plan)");
    let mut setup = setup().plan(FaultPlan::drawn(seed, run.mix, 3));
    setup.on_unknown = run.on_unknown;
    setup.timeout = r#"{ total = "5s", attempt = "1s" }"#;
    let mut rig = Rig::start(&setup).await.unwrap();
    let keys: Arc<Vec<String>> = Arc::new((0..run.keys).map(|n| format!("key-{seed}-{n}")).collect());

    let working = Arc::new(AtomicBool::new(true));
    let mut callers = work(&rig, seed, &keys);
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
    heal(&rig, &keys).await;
    rig
}

/// Callers that take the keys one after another and do with each what the seed says.
fn work(rig: &Rig, seed: u64, keys: &Arc<Vec<String>>) -> JoinSet<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (next, keys) = (Arc::clone(&next), Arc::clone(keys));
        let mut caller = rig.caller();
        let racers: Vec<Caller> = (0..RACERS).map(|_| rig.caller()).collect();
        callers.spawn(async move {
            let mut racers = racers;
            while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                racers = one_key(&mut caller, racers, key, draw(seed, key, u32::MAX)).await;
            }
        });
    }
    callers
}

async fn one_key(caller: &mut Caller, racers: Vec<Caller>, key: &str, luck: u64) -> Vec<Caller> {
    let mut racers = racers;
    match luck % 100 {
        // All at once.
        0..2 => racers = race(racers, RACERS, key).await,
        2..20 => racers = race(racers, 4, key).await,
        20..40 => {
            let hang_ups = [HangUp::InRequest, HangUp::AfterRequest, HangUp::InAnswer];
            let hang_up = hang_ups[usize::try_from(luck / 100 % 3).unwrap_or(0)];
            caller.call(key, PAYLOAD, hang_up).await;
        }
        40..45 => {
            caller.call(key, PAYLOAD, HangUp::Never).await;
            caller.call(key, OTHER_PAYLOAD, HangUp::Never).await;
        }
        _ => {}
    }
    // A plain client: again while it knows nothing, a few times.
    for _ in 0..4 {
        let end = caller.call(key, PAYLOAD, HangUp::Never).await;
        if Reading::of(&end).settled() {
            break;
        }
        if matches!(end, End::NotSent(_)) {
            // The gateway is being restarted; asking faster does not bring it back.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    caller.call(key, PAYLOAD, HangUp::Never).await;
    racers
}

async fn race(mut racers: Vec<Caller>, count: usize, key: &str) -> Vec<Caller> {
    let mut running = JoinSet::new();
    for mut racer in racers.drain(..count) {
        let key = key.to_owned();
        running.spawn(async move {
            racer.call(&key, PAYLOAD, HangUp::Never).await;
            racer
        });
    }
    racers.extend(running.join_all().await);
    racers
}

/// Faults stop; what is open must end; then every key is asked once more.
async fn heal(rig: &Rig, keys: &[String]) {
    rig.upstream.heal();
    let mut caller = rig.caller();
    let mut open: HashSet<&String> = keys.iter().collect();
    let all_ended = async {
        while !open.is_empty() {
            let mut still = HashSet::new();
            for key in open.drain() {
                let end = caller.call(key, PAYLOAD, HangUp::Never).await;
                if Reading::of(&end).open() || !matches!(end, End::Answered(_)) {
                    still.insert(key);
                }
            }
            open = still;
        }
    };
    // The rule `nothing_stays_open` tells which keys, if the bound is not kept.
    let _ = tokio::time::timeout(LEASE_BOUND + PATIENCE, all_ended).await;
    rig.oracle.healed();
    let mut caller = rig.caller();
    for key in keys {
        caller.call(key, PAYLOAD, HangUp::Never).await;
    }
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
