//! Proof 20: three gateways on one ledger, with clocks that differ, while gateways and the ledger's servers are killed and
//! frozen one after another, in an order and at moments that the seed says. No key executes twice, and whatever was
//! answered is answered again by each of them.
//!
//! `SEMEL_SEED` repeats a run's plan, `SEMEL_FAULTS` makes it longer.

use crate::setup;
use crate::traffic::{Traffic, seed};
use rustix::process::Signal;
use semel_testkit::clock::wait_until;
use semel_testkit::oracle::OnUnknown;
use semel_testkit::plan::{EVERYTHING, FaultPlan, draw};
use semel_testkit::process::{Gateway, get};
use semel_testkit::rig::{PATIENCE, Rig};
use semel_testkit::skipped;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// The servers of a ledger that gateways share.
pub(crate) trait Engine {
    /// The lines of the gateways' configuration that choose it.
    fn config(&self) -> String;

    /// Makes it ready for gateways with this configuration.
    fn prepare(&self, config: &Path);

    /// What may happen to its servers, in this order.
    fn faults(&self) -> &'static [&'static str];

    /// Lets the fault with this number happen. On return the servers serve again.
    fn inject(&mut self, fault: usize);
}

/// How much the clocks of the gateways are off, in milliseconds: not, as much as in a good network, and absurdly.
const SKEWS_MS: [i64; 3] = [0, 200, -3 * 86_400_000];
/// The lease of a claim, short so that the test can outlast it.
const LEASE: Duration = Duration::from_secs(2);
/// How long a gateway is frozen: past the lease.
const FROZEN: Duration = Duration::from_millis(2500);
/// More keys than a run can use.
const KEYS_MAX: usize = 20_000;

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A gateway is killed and started again.
    Kill(usize),
    /// A gateway is frozen past its leases and goes on.
    Freeze(usize),
    /// Something happens to the engine.
    Engine(usize),
}

/// Runs callers and faults, and asserts that every rule was kept.
pub(crate) async fn run(mut engine: impl Engine) {
    let seed = seed();
    let mut setup = setup().plan(FaultPlan::drawn(seed, EVERYTHING, 3)).idempotency(r#", lease = "2s""#);
    setup.on_unknown = OnUnknown::Hold;
    setup.timeout = r#"{ total = "5s", attempt = "1s" }"#;
    setup.engine = Some(engine.config());
    let mut rig = Rig::prepare(&setup).await.unwrap();
    tokio::task::block_in_place(|| {
        engine.prepare(rig.gateway.config());
        rig.gateway.start().unwrap();
    });
    let mut others: Vec<Gateway> = Vec::new();
    for (n, skew_ms) in SKEWS_MS.into_iter().enumerate().skip(1) {
        let mut gateway = rig.prepare_another(&setup, &format!("gateway-{n}")).unwrap();
        if let Err(why) = gateway.skew_clock(skew_ms) {
            skipped(why);
        }
        tokio::task::block_in_place(|| gateway.start()).unwrap();
        others.push(gateway);
    }

    let addresses = [rig.gateway.http()].into_iter().chain(others.iter().map(Gateway::http)).collect();
    let traffic = Traffic::new(seed, addresses, KEYS_MAX);
    let callers = traffic.work(&rig);
    for (n, fault) in (0..).zip(plan(seed, engine.faults().len())) {
        tokio::time::sleep(Duration::from_millis(300 + draw(seed, "moment", n) % 700)).await;
        let from_us = rig.oracle.now_us();
        eprintln!("{from_us:>9} us  {fault:?}");
        tokio::task::block_in_place(|| match fault {
            Fault::Kill(at) => restart(gateway(&mut rig, &mut others, at)),
            Fault::Freeze(at) => freeze(gateway(&mut rig, &mut others, at)),
            Fault::Engine(fault) => {
                engine.inject(fault);
                let admins = [rig.gateway.admin()].into_iter().chain(others.iter().map(Gateway::admin));
                admins.for_each(serves);
            }
        });
        rig.oracle.was_down(from_us);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    traffic.enough();
    callers.join_all().await;
    traffic.heal(&rig, LEASE * 2).await;
    judge(&rig);
}

fn gateway<'a>(rig: &'a mut Rig, others: &'a mut [Gateway], at: usize) -> &'a mut Gateway {
    match at.checked_sub(1) {
        None => &mut rig.gateway,
        Some(other) => &mut others[other],
    }
}

/// Waits until a gateway has found its engine again.
fn serves(admin: SocketAddr) {
    let ready = || get(admin, "/readyz").is_ok_and(|(status, _)| status == 200);
    assert!(wait_until(PATIENCE, ready), "the gateway does not find its engine: {:?}", get(admin, "/readyz"));
}

fn restart(gateway: &mut Gateway) {
    gateway.kill().unwrap();
    gateway.start().unwrap();
}

/// A fault that lasts.
#[expect(clippy::disallowed_methods, reason = "what is waited for is that time passes while somebody does not move")]
pub(crate) fn last(long: Duration) {
    std::thread::sleep(long);
}

fn freeze(gateway: &Gateway) {
    gateway.signal(Signal::STOP).unwrap();
    last(FROZEN);
    gateway.signal(Signal::CONT).unwrap();
}

/// Every fault of the engine in its order, and in between those of the gateways, as the seed says.
fn plan(seed: u64, of_engine: usize) -> Vec<Fault> {
    let more = std::env::var("SEMEL_FAULTS").ok().and_then(|faults| faults.parse().ok()).unwrap_or(0);
    let victim = |n: u32| usize::try_from(draw(seed, "victim", n)).unwrap_or(0) % SKEWS_MS.len();
    let kills = (0..4 + more).map(|n| Fault::Kill(victim(n)));
    let freezes = (0..1 + more / 4).map(|n| Fault::Freeze(victim(1000 + n)));
    let mut faults: Vec<Fault> = kills.chain(freezes).collect();
    for fault in 0..of_engine {
        faults.push(Fault::Engine(fault));
    }
    let mut order: Vec<(u64, Fault)> = (0..).zip(faults).map(|(n, fault)| (draw(seed, "order", n), fault)).collect();
    order.sort_by_key(|(luck, _)| *luck);
    let mut of_engine = 0..of_engine;
    let in_order = |fault: Fault| match fault {
        Fault::Engine(_) => of_engine.next().map_or(fault, Fault::Engine),
        other => other,
    };
    order.into_iter().map(|(_, fault)| fault).map(in_order).collect()
}

/// The rules hold, and the run was worth something.
fn judge(rig: &Rig) {
    let history = rig.history();
    let summary = history.summary();
    eprintln!("{summary}");
    history.assert_kept();
    let ended = |word: &str| summary.ends.get(word).copied().unwrap_or(0);
    assert!(summary.keys >= 300 && ended("replayed") >= summary.keys, "{summary}");
    assert!(ended("in-flight") + ended("ledger-unavailable") + ended("outcome-unknown") > 0, "{summary}");
}
