//! Several gateways on one PostgreSQL database.

use crate::cluster::{Engine, last, run};
use crate::{expect, setup};
use semel_testkit::client::HangUp;
use semel_testkit::clock::wait_until;
use semel_testkit::oracle::Reading;
use semel_testkit::plan::{Act, FaultPlan};
use semel_testkit::postgres::{Server, unavailable};
use semel_testkit::process::get;
use semel_testkit::rig::{PATIENCE, PAYLOAD, Rig, Setup};
use semel_testkit::skipped;
use std::process::{Command, Output};
use std::time::Duration;

/// A database and the set-up of a gateway on it; none where there is no PostgreSQL.
pub(crate) fn database(plan: FaultPlan) -> Option<(Server, Setup, tempfile::TempDir)> {
    if let Some(why) = unavailable() {
        skipped(&why);
        return None;
    }
    let server = Server::start("").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("admin.token");
    let mut setup = setup().plan(plan);
    setup.engine =
        Some(format!("ledger.postgres = {{ url = \"{}\" }}\nadmin.token_file = \"{}\"", server.url(), token.display()));
    Some((server, setup, folder))
}

pub(crate) fn semel(config: &std::path::Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_semel")).args(args).arg("-c").arg(config).output().unwrap()
}

#[track_caller]
pub(crate) fn tells(output: &Output, code: i32, words: &str) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(words), "{words:?} is not in {text}");
}

pub(crate) async fn migrated(setup: &Setup) -> Rig {
    let mut rig = Rig::prepare(setup).await.unwrap();
    tokio::task::block_in_place(|| {
        migrate(rig.gateway.config());
        rig.gateway.start().unwrap();
    });
    rig
}

fn migrate(config: &std::path::Path) {
    tells(&semel(config, &["ledger", "migrate"]), 0, "made      schema semel, version 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_asked_for_and_made() {
    let Some((server, setup, _folder)) = database(FaultPlan::faultless()) else { return };
    let mut rig = Rig::prepare(&setup).await.unwrap();
    let config = rig.gateway.config().to_owned();
    tells(&semel(&config, &["check"]), 4, "SM0108");
    tells(&semel(&config, &["run"]), 4, "semel ledger migrate");
    tells(&semel(&config, &["ledger", "repair", "--accept-loss"]), 1, "SM0111");
    server.sql("ALTER ROLE semel SET synchronous_commit = off").unwrap();
    tells(&semel(&config, &["ledger", "migrate"]), 0, "made      schema semel, version 1");
    tells(&semel(&config, &["ledger", "migrate"]), 0, "unchanged schema semel, version 1");
    tells(&semel(&config, &["check"]), 4, "SM0109");
    server.sql("ALTER ROLE semel RESET synchronous_commit").unwrap();
    tells(&semel(&config, &["check"]), 0, "no synchronous standby");
    tokio::task::block_in_place(|| rig.gateway.start()).unwrap();
    expect(&rig.call("a").await, 201, "committed", false);
    tells(&semel(&config, &["ledger", "stats"]), 0, "1  settled   pay");
    tells(&semel(&config, &["ledger", "verify"]), 0, "records   2");
    tells(&semel(&config, &["ledger", "export"]), 0, "\"settled\"");
    server.sql("UPDATE semel.meta SET version = 99").unwrap();
    tells(&semel(&config, &["ledger", "migrate"]), 4, "holds version 99");
    drop(server);
    tells(&semel(&config, &["check"]), 4, "SM0107");
    let (status, ready) = tokio::task::block_in_place(|| {
        let bound = Duration::from_secs(20);
        let mut seen = (0, String::new());
        wait_until(bound, || {
            seen = get(rig.gateway.admin(), "/readyz").unwrap();
            seen.0 == 503
        });
        seen
    });
    assert_eq!(status, 503);
    assert!(ready.contains("cannot be reached"), "{ready}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_may_reach_any_gateway() {
    let plan = FaultPlan::faultless().script("late", &[Act::Late]);
    let Some((_server, setup, _folder)) = database(plan) else { return };
    let rig = migrated(&setup).await;
    let other = rig.another(&setup, "other").unwrap();
    expect(&rig.call("a").await, 201, "committed", false);
    expect(&rig.caller_of(&other).call("a", PAYLOAD, HangUp::Never).await, 201, "committed", true);

    // While the first is in flight, a duplicate at the other gateway waits and gets the answer.
    let mut first = rig.caller();
    let call = tokio::spawn(async move { first.call("late", PAYLOAD, HangUp::Never).await });
    rig.arrived("late", 1).await;
    let joined = rig.caller_of(&other).call("late", PAYLOAD, HangUp::Never).await;
    expect(&call.await.unwrap(), 201, "committed", false);
    expect(&joined, 201, "committed", true);
    assert_eq!((rig.executions("a"), rig.executions("late")), (1, 1));
    rig.history().assert_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_dies_and_comes_back_under_load() {
    const KEYS: usize = 400;
    const CALLERS: usize = 8;
    let Some((mut server, setup, _folder)) = database(FaultPlan::faultless()) else { return };
    let rig = migrated(&setup).await;
    let other = rig.another(&setup, "other").unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..CALLERS {
        let mut caller = if n % 2 == 0 { rig.caller() } else { rig.caller_of(&other) };
        callers.spawn(async move {
            for key in (n..KEYS).step_by(CALLERS) {
                for _ in 0..8 {
                    let end = caller.call(&format!("key-{key}"), PAYLOAD, HangUp::Never).await;
                    if Reading::of(&end).settled() {
                        break;
                    }
                }
            }
        });
    }
    for round in 1..=2 {
        let enough = KEYS * round / 4;
        let last = format!("key-{enough}");
        rig.arrived(&last, 1).await;
        let from_us = rig.oracle.now_us();
        tokio::task::block_in_place(|| {
            server.kill().unwrap();
            server.restart().unwrap();
        });
        rig.oracle.was_down(from_us);
    }
    callers.join_all().await;
    let twice: Vec<usize> = (0..KEYS).filter(|key| rig.executions(&format!("key-{key}")) > 1).collect();
    assert!(twice.is_empty(), "executed twice: {twice:?}");
    rig.history().assert_kept();
}

/// A primary whose commits wait for a standby.
struct Pair {
    primary: Server,
    standby: Server,
    token: tempfile::TempDir,
    /// Whether the primary dies at the promotion. Otherwise it is frozen, and afterwards it goes on and still believes
    /// that it is the primary.
    dies: bool,
}

impl Pair {
    fn start(dies: bool) -> Self {
        let primary = Server::start("").unwrap();
        let standby = primary.standby("standby").unwrap();
        primary.configure("synchronous_standby_names = 'standby'").unwrap();
        primary.reload().unwrap();
        Self { primary, standby, token: tempfile::tempdir().unwrap(), dies }
    }

    /// Waits until commits are passed on to the standby.
    fn follows(&self) {
        let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        let follows = wait_until(PATIENCE, || self.primary.sql(synchronous).is_ok_and(|count| count == "1"));
        assert!(follows, "the standby does not follow");
    }
}

impl Engine for Pair {
    fn config(&self) -> String {
        let (url, token) = (self.primary.url_with(&[&self.standby]), self.token.path().join("admin.token"));
        format!("ledger.postgres = {{ url = \"{url}\" }}\nadmin.token_file = \"{}\"", token.display())
    }

    fn prepare(&self, config: &std::path::Path) {
        self.follows();
        migrate(config);
    }

    fn faults(&self) -> &'static [&'static str] {
        &["the primary is killed", "the standby is frozen", "the standby is promoted"]
    }

    fn inject(&mut self, fault: usize) {
        match fault {
            0 => {
                self.primary.kill().unwrap();
                self.primary.restart().unwrap();
                self.follows();
            }
            1 => {
                self.standby.freeze(true).unwrap();
                last(FROZEN);
                self.standby.freeze(false).unwrap();
            }
            _ if self.dies => {
                self.primary.kill().unwrap();
                self.standby.promote().unwrap();
            }
            _ => {
                self.primary.freeze(true).unwrap();
                self.standby.promote().unwrap();
                // Before they have found the new primary, gateways may be told by the former what stood before.
                let readers =
                    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%.look(%' AND pid <> pg_backend_pid()";
                let all = || self.standby.sql(readers).is_ok_and(|count| count == "3");
                assert!(wait_until(PATIENCE, all), "not all gateways find the new primary");
                self.primary.freeze(false).unwrap();
            }
        }
    }
}

/// How long servers are frozen: longer than gateways wait until they look for another, and than some callers do.
const FROZEN: Duration = Duration::from_secs(3);

async fn cluster(dies: bool) {
    if let Some(why) = unavailable() {
        return skipped(&why);
    }
    run(tokio::task::block_in_place(|| Pair::start(dies))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_while_everything_dies_and_the_standby_is_promoted() {
    cluster(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_while_the_former_primary_goes_on_as_one() {
    cluster(false).await;
}
