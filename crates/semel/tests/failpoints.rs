//! Proof 13: the process stops at every named place of a call, is started again, and nothing runs twice or is lost.
//!
//! Needs a gateway with its stop points built in: `cargo test -p semel --features failpoints --test failpoints`.

use semel_testkit::client::End;
use semel_testkit::oracle::{OnUnknown, Reading};
use semel_testkit::rig::{Rig, Setup};

/// The engine's places on the way of one commit.
const OF_A_COMMIT: [&str; 4] = ["log.append.before", "log.sync.before", "log.sync.after", "ack.before"];
/// Commits that one life of a gateway may make before it has settled its first effect, and some more.
const COMMITS_MAX: u64 = 6;

fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_semel"))
}

/// Stops the gateway at `failpoint` while it carries out `key`, and starts it again without.
async fn stop_at(rig: &mut Rig, failpoint: &str, key: &str) -> End {
    let from_us = rig.oracle.now_us();
    tokio::task::block_in_place(|| rig.gateway.kill()).unwrap();
    rig.gateway.set_env("SEMEL_FAILPOINT", failpoint);
    // It may stop while it starts: then nobody was called at all.
    let started = tokio::task::block_in_place(|| rig.gateway.start());
    let end = if started.is_ok() { rig.call(key).await } else { End::NotSent("stopped at its start".to_owned()) };
    if !matches!(end, End::Answered(_)) {
        let status = tokio::task::block_in_place(|| rig.gateway.wait_exit());
        assert!(started.is_err() || !status.unwrap().success(), "it did not stop at {failpoint}");
    }
    tokio::task::block_in_place(|| rig.gateway.kill()).unwrap();
    rig.gateway.set_env("SEMEL_FAILPOINT", "");
    tokio::task::block_in_place(|| rig.gateway.start()).unwrap();
    rig.oracle.was_down(from_us);
    end
}

fn word(end: &End) -> String {
    Reading::of(end).word()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_each_place_of_a_call() {
    // (place, what the next caller is told, arrivals at the upstream before it asked)
    let places = [
        ("call.before-claim", "committed", 0),
        ("call.after-claim", "outcome-unknown", 0),
        ("call.after-send", "outcome-unknown", 1),
        ("call.after-answer", "outcome-unknown", 1),
        ("call.before-ack", "replayed", 1),
    ];
    let mut rig = Rig::start(&setup()).await.unwrap();
    for (place, told, arrivals) in places {
        let end = stop_at(&mut rig, &format!("{place}=abort"), place).await;
        assert!(matches!(end, End::Unknown(_)), "{place}: {end:?}");
        assert_eq!(rig.arrivals(place), arrivals, "{place}");
        assert_eq!(word(&rig.call(place).await), told, "{place}");
        assert!(rig.executions(place) <= 1, "{place}");
    }
    rig.history().assert_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_each_place_of_a_call_under_retry() {
    let mut setup = setup();
    setup.on_unknown = OnUnknown::Retry;
    let mut rig = Rig::start(&setup).await.unwrap();
    for place in ["call.before-claim", "call.after-claim", "call.after-send", "call.after-answer", "call.before-ack"] {
        stop_at(&mut rig, &format!("{place}=abort"), place).await;
        let again = rig.call(place).await;
        assert!(Reading::of(&again).settled(), "{place}: {}", Reading::of(&again));
        assert_eq!(rig.executions(place), 1, "{place}");
    }
    rig.oracle.healed();
    rig.history().assert_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_each_place_of_each_commit() {
    let mut rig = Rig::start(&setup()).await.unwrap();
    let mut stopped = 0;
    for place in OF_A_COMMIT {
        for commit in 1..=COMMITS_MAX {
            let key = format!("{place}@{commit}");
            let end = stop_at(&mut rig, &format!("{place}=abort@{commit}"), &key).await;
            stopped += usize::from(!matches!(end, End::Answered(_)));
            let again = rig.call(&key).await;
            let known = ["committed", "replayed", "outcome-unknown"].contains(&word(&again).as_str());
            assert!(known, "{key}: {}", Reading::of(&again));
            assert!(rig.executions(&key) <= 1, "{key}");
        }
    }
    // The claim and the settlement at least, at each place.
    assert!(stopped >= 2 * OF_A_COMMIT.len(), "only {stopped} stops happened");
    rig.history().assert_kept();
}
