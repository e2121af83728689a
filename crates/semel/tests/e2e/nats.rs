//! Several gateways on one JetStream stream.

use crate::{expect, setup};
use semel_testkit::client::HangUp;
use semel_testkit::nats::{Servers, unavailable};
use semel_testkit::oracle::Reading;
use semel_testkit::plan::{Act, FaultPlan};
use semel_testkit::process::get;
use semel_testkit::rig::{PAYLOAD, Rig, Setup};
use semel_testkit::skipped;
use std::process::{Command, Output};
use std::time::Duration;

/// Servers and the set-up of a gateway on them; none where there is no NATS.
fn servers(n: usize, jetstream: &str, system: bool, plan: FaultPlan) -> Option<(Servers, Setup, tempfile::TempDir)> {
    if let Some(why) = unavailable() {
        skipped(&why);
        return None;
    }
    let servers = Servers::start_with(n, jetstream).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("admin.token");
    let system = if system { format!(", system_url = \"{}\"", servers.system_url()) } else { String::new() };
    let mut setup = setup().plan(plan);
    setup.engine = Some(format!(
        "ledger.nats = {{ url = \"{}\", replicas = {n}{system} }}\nadmin.token_file = \"{}\"",
        servers.url(),
        token.display()
    ));
    Some((servers, setup, folder))
}

fn semel(config: &std::path::Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_semel")).args(args).arg("-c").arg(config).output().unwrap()
}

#[track_caller]
fn tells(output: &Output, code: i32, words: &str) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(words), "{words:?} is not in {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_is_asked_for_and_made() {
    let Some((mut servers, setup, _folder)) = servers(1, "sync_interval: always", false, FaultPlan::faultless()) else {
        return;
    };
    let mut rig = Rig::prepare(&setup).await.unwrap();
    let config = rig.gateway.config().to_owned();
    tells(&semel(&config, &["check"]), 4, "SM0108");
    tells(&semel(&config, &["run"]), 4, "semel ledger migrate");
    tells(&semel(&config, &["ledger", "repair", "--accept-loss"]), 1, "SM0111");
    tells(&semel(&config, &["ledger", "migrate"]), 0, "made      stream semel, version 1");
    tells(&semel(&config, &["ledger", "migrate"]), 0, "unchanged stream semel, version 1");
    tells(&semel(&config, &["check"]), 0, "with its disk the ledger is lost");
    tells(&semel(&config, &["check"]), 0, "cannot be seen without ledger.nats.system_url");
    tokio::task::block_in_place(|| rig.gateway.start()).unwrap();
    expect(&rig.call("a").await, 201, "committed", false);
    expect(&rig.call("a").await, 201, "committed", true);
    tells(&semel(&config, &["ledger", "stats"]), 0, "1  settled   pay");
    tells(&semel(&config, &["ledger", "verify"]), 0, "records   2");
    tells(&semel(&config, &["ledger", "export"]), 0, "\"settled\"");
    servers.kill_all().unwrap();
    tells(&semel(&config, &["check"]), 4, "SM0107");
    let (status, ready) = tokio::task::block_in_place(|| {
        let mut seen = (0, String::new());
        semel_testkit::clock::wait_until(Duration::from_secs(20), || {
            seen = get(rig.gateway.admin(), "/readyz").unwrap();
            seen.0 == 503
        });
        seen
    });
    assert_eq!(status, 503, "{ready}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_write_later_are_refused() {
    let Some((_servers, setup, _folder)) = servers(1, "", true, FaultPlan::faultless()) else { return };
    let rig = Rig::prepare(&setup).await.unwrap();
    tells(&semel(rig.gateway.config(), &["ledger", "migrate"]), 4, "SM0109");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_and_a_leader_that_dies() {
    const KEYS: usize = 300;
    const CALLERS: usize = 9;
    let plan = FaultPlan::faultless().script("late", &[Act::Late]);
    let Some((mut servers, setup, _folder)) = servers(3, "sync_interval: always", true, plan) else { return };
    let mut rig = Rig::prepare(&setup).await.unwrap();
    tokio::task::block_in_place(|| {
        tells(&semel(rig.gateway.config(), &["ledger", "migrate"]), 0, "made      stream semel");
        rig.gateway.start().unwrap();
    });
    let others = [rig.another(&setup, "second").unwrap(), rig.another(&setup, "third").unwrap()];

    // While the first is in flight, a duplicate at another gateway waits and gets the answer.
    let mut first = rig.caller();
    let call = tokio::spawn(async move { first.call("late", PAYLOAD, HangUp::Never).await });
    rig.arrived("late", 1).await;
    let joined = rig.caller_of(&others[0]).call("late", PAYLOAD, HangUp::Never).await;
    expect(&call.await.unwrap(), 201, "committed", false);
    expect(&joined, 201, "committed", true);

    let mut callers = tokio::task::JoinSet::new();
    for n in 0..CALLERS {
        let mut caller = match n % 3 {
            0 => rig.caller(),
            other => rig.caller_of(&others[other - 1]),
        };
        callers.spawn(async move {
            // Three callers of three gateways go through the same keys.
            for key in (n / 3..KEYS).step_by(CALLERS / 3) {
                for _ in 0..8 {
                    let end = caller.call(&format!("key-{key}"), PAYLOAD, HangUp::Never).await;
                    if Reading::of(&end).settled() {
                        break;
                    }
                }
            }
        });
    }
    let half = format!("key-{}", KEYS / 2);
    rig.arrived(&half, 1).await;
    let from_us = rig.oracle.now_us();
    tokio::task::block_in_place(|| {
        let leader = servers.leader("semel").unwrap();
        servers.kill(leader).unwrap();
    });
    callers.join_all().await;
    rig.oracle.was_down(from_us);
    let twice: Vec<usize> = (0..KEYS).filter(|key| rig.executions(&format!("key-{key}")) > 1).collect();
    assert!(twice.is_empty(), "executed twice: {twice:?}");
    rig.history().assert_kept();
}
