//! `semel ledger copy`: effects go on elsewhere as if they had begun there.

use crate::postgres::{database, migrated, semel, tells};
use crate::{expect, setup};
use semel_testkit::client::HangUp;
use semel_testkit::plan::{Act, FaultPlan};
use semel_testkit::postgres::Server;
use semel_testkit::rig::{PAYLOAD, Rig, Setup};
use std::path::Path;
use std::process::Output;

fn copy(from: &Path, to: &Path) -> Output {
    let [from, to] = [from, to].map(|path| path.to_str().unwrap());
    semel_plain(&["ledger", "copy", "--from", from, "--to", to])
}

fn semel_plain(args: &[&str]) -> Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_semel")).args(args).output().unwrap()
}

/// A configuration of a gateway before `rig`'s upstream that has not been started.
fn elsewhere(rig: &Rig, setup: &Setup, name: &str) -> semel_testkit::process::Gateway {
    rig.prepare_another(setup, name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_folder_to_a_database_and_back() {
    let plan = FaultPlan::faultless().script("lost", &[Act::CloseAfter]);
    let Some((server, on_postgres, _folder)) = database(plan.clone()) else { return };
    let on_disk = setup().plan(plan);
    let mut rig = Rig::start(&on_disk).await.unwrap();
    for n in 0..50 {
        expect(&rig.call(&format!("key-{n}")).await, 201, "committed", false);
    }
    expect(&rig.call("lost").await, 504, "outcome-unknown", false);
    let here = rig.gateway.config().to_owned();
    let mut there = elsewhere(&rig, &on_postgres, "there");

    // Not while the gateway has the folder.
    tells(&copy(&here, there.config()), 4, "SM0101");
    tokio::task::block_in_place(|| rig.gateway.terminate()).unwrap();
    tells(&copy(&here, there.config()), 0, "copied    51 effects, 0 were there");
    tells(&copy(&here, there.config()), 0, "whole     51 effects are there as they are here");
    tells(&copy(&here, there.config()), 0, "copied    0 effects, 51 were there");
    tells(&semel(there.config(), &["ledger", "stats"]), 0, "50  settled   pay");

    // Another gateway on another engine: whatever was executed is replayed, what nobody knows is held.
    tokio::task::block_in_place(|| there.start()).unwrap();
    for n in 0..50 {
        let replayed = rig.caller_of(&there).call(&format!("key-{n}"), PAYLOAD, HangUp::Never).await;
        expect(&replayed, 201, "committed", true);
    }
    let held = rig.caller_of(&there).call("lost", PAYLOAD, HangUp::Never).await;
    expect(&held, 409, "outcome-unknown", false);
    expect(&rig.caller_of(&there).call("new", PAYLOAD, HangUp::Never).await, 201, "committed", false);
    tokio::task::block_in_place(|| there.terminate()).unwrap();

    // And back into another folder.
    let mut back = elsewhere(&rig, &on_disk, "back");
    tells(&copy(there.config(), back.config()), 0, "whole     52 effects");
    tokio::task::block_in_place(|| back.start()).unwrap();
    expect(&rig.caller_of(&back).call("new", PAYLOAD, HangUp::Never).await, 201, "committed", true);
    rig.history().assert_kept();

    // Not into a ledger that holds something else.
    server.sql("UPDATE semel.meta SET secret = decode(repeat('07', 32), 'hex')").unwrap();
    tells(&copy(&here, there.config()), 4, "in use for something else");
}

#[tokio::test(flavor = "multi_thread")]
async fn from_one_database_to_another_while_it_is_used() {
    let plan = FaultPlan::faultless().script("slow", &[Act::Late]);
    let Some((_server, setup, folder)) = database(plan) else { return };
    let mut rig = migrated(&setup).await;
    for n in 0..200 {
        expect(&rig.call(&format!("key-{n}")).await, 201, "committed", false);
    }
    let heir = Server::start("").unwrap();
    let mut to = setup.clone();
    let token = folder.path().join("heir.token");
    to.engine =
        Some(format!("ledger.postgres = {{ url = \"{}\" }}\nadmin.token_file = \"{}\"", heir.url(), token.display()));
    let mut there = elsewhere(&rig, &to, "there");
    let config = rig.gateway.config().to_owned();

    // Somebody is at one of them: it is left to the next run, which says that the copy is whole.
    let mut caller = rig.caller();
    let call = tokio::spawn(async move { caller.call("slow", PAYLOAD, HangUp::Never).await });
    rig.arrived("slow", 1).await;
    let first = tokio::task::block_in_place(|| copy(&config, there.config()));
    // The upstream takes its time, but who knows how long the copy takes.
    if !first.status.success() {
        tells(&first, 1, "not whole yet");
    }
    expect(&call.await.unwrap(), 201, "committed", false);
    tokio::task::block_in_place(|| rig.gateway.terminate()).unwrap();
    tells(&copy(&config, there.config()), 0, "whole     201 effects");
    tokio::task::block_in_place(|| there.start()).unwrap();
    for key in ["slow", "key-0", "key-199"] {
        expect(&rig.caller_of(&there).call(key, PAYLOAD, HangUp::Never).await, 201, "committed", true);
    }
    rig.history().assert_kept();
}
