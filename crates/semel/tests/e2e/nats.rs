//! Several gateways on one JetStream stream.

use crate::cluster::{Engine, last, run};
use crate::postgres::{semel, tells};
use crate::{expect, setup};
use semel_testkit::client::HangUp;
use semel_testkit::nats::{Servers, unavailable};
use semel_testkit::plan::{Act, FaultPlan};
use semel_testkit::process::get;
use semel_testkit::rig::{PAYLOAD, Rig, Setup};
use semel_testkit::skipped;
use std::path::Path;
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
async fn a_retry_may_reach_any_gateway() {
    let plan = FaultPlan::faultless().script("late", &[Act::Late]);
    let Some((_servers, setup, _folder)) = servers(1, "sync_interval: always", false, plan) else { return };
    let mut rig = Rig::prepare(&setup).await.unwrap();
    tokio::task::block_in_place(|| {
        tells(&semel(rig.gateway.config(), &["ledger", "migrate"]), 0, "made      stream semel");
        rig.gateway.start().unwrap();
    });
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

/// Three servers under three gateways.
struct Cluster {
    servers: Servers,
    folder: tempfile::TempDir,
}

impl Engine for Cluster {
    fn config(&self) -> String {
        let (url, system) = (self.servers.url(), self.servers.system_url());
        let token = self.folder.path().join("admin.token");
        format!(
            "ledger.nats = {{ url = \"{url}\", system_url = \"{system}\" }}\nadmin.token_file = \"{}\"",
            token.display()
        )
    }

    fn prepare(&self, config: &Path) {
        tells(&semel(config, &["ledger", "migrate"]), 0, "made      stream semel");
    }

    fn faults(&self) -> &'static [&'static str] {
        &["the leader is frozen", "the leader is killed"]
    }

    fn inject(&mut self, fault: usize) {
        let leader = self.servers.leader("semel").unwrap();
        if fault == 0 {
            self.servers.freeze(leader, true).unwrap();
            last(Duration::from_secs(3));
            self.servers.freeze(leader, false).unwrap();
        } else {
            // It stays away: two of three go on.
            self.servers.kill(leader).unwrap();
        }
        self.servers.leader("semel").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_on_three_servers_that_die() {
    if let Some(why) = unavailable() {
        skipped(&why);
        return;
    }
    let servers = Servers::start(3).unwrap();
    run(Cluster { servers, folder: tempfile::tempdir().unwrap() }).await;
}
