//! What is the NATS engine's own: its checks at the start, lost answers, a leader that dies, a stream that forgets.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use semel_core::answer::{StoredAnswer, StoredHeaders};
use semel_core::effect::{Authority, Claim, Command, Fence, OnUnknown, Outcome, Owner, Phase, Reply, Terms};
use semel_core::fingerprint::{Fingerprint, FingerprintInput};
use semel_core::scope::{EffectId, Principal};
use semel_ledger::{Applied, Health, Ledger, LedgerError};
use semel_ledger_nats::{Error, NatsLedger, Options, migrate};
use semel_testkit::clock::{Stopwatch, wait_until};
use semel_testkit::nats::{Servers, unavailable};
use semel_testkit::skipped;
use tokio::task::JoinSet;

use crate::harness::{Nats, options};

const LEASE: Duration = Duration::from_secs(30);

fn id(n: u64) -> EffectId {
    EffectId::from_bytes(u128::from(n).to_be_bytes())
}

fn claim(owner: u64) -> Command {
    let fingerprint = Fingerprint::of(&FingerprintInput {
        method: &http::Method::POST,
        path: "/pay",
        query: None,
        headers: &http::HeaderMap::new(),
        body: b"10",
    });
    let hour_ms = 3_600_000;
    let terms = Arc::new(Terms {
        scope: "payments".into(),
        upstream: "payments".into(),
        on_unknown: OnUnknown::Hold,
        upstream_keep_ms: 0,
        keep_ms: hour_ms,
        marker_ms: hour_ms,
    });
    Command::Claim(Claim { owner: Owner(owner), lease: LEASE, fingerprint, proof: Principal::anyone().proof(), terms })
}

fn settle(fence: Fence, body: &[u8]) -> Command {
    let body = Bytes::copy_from_slice(body);
    let outcome = Outcome::Settled(StoredAnswer { status: StatusCode::OK, headers: StoredHeaders::default(), body });
    Command::Settle { fence, outcome, by: Authority::Owner, attempts: 1 }
}

fn fence(applied: &Applied) -> Fence {
    applied.seen.record.as_ref().expect("a record").fence
}

fn servers(n: usize, jetstream: &str) -> Option<Servers> {
    if let Some(why) = unavailable() {
        skipped(&why);
        return None;
    }
    Some(Servers::start_with(n, jetstream).expect("NATS starts"))
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_may_lose_what_they_acknowledge_are_refused() {
    let Some(servers) = servers(1, "") else { return };
    let options = options(&servers);
    assert!(matches!(NatsLedger::open(&options).await.err(), Some(Error::NotMigrated { .. })));
    let refused = migrate(&options).await.expect_err("it is refused");
    assert!(matches!(&refused, Error::NotDurable(why) if why.contains("sync_interval: always")), "{refused}");
    let mut unseen = options.clone();
    unseen.system_url = None;
    // Who is not told cannot refuse; the start warns.
    let made = migrate(&unseen).await.expect("the stream is made");
    assert_eq!((made.from, made.to), (None, 1));
    assert_eq!(migrate(&unseen).await.expect("it stands").from, Some(1));
    assert!(NatsLedger::open(&unseen).await.is_ok());
    unseen.replicas = 3;
    let refused = NatsLedger::open(&unseen).await.err().expect("it is refused");
    assert!(matches!(&refused, Error::NotDurable(why) if why.contains("on 1 servers, not on 3")), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_or_unreadable_url_is_told() {
    let refused = NatsLedger::open(&Options::new("nats://127.0.0.1:1")).await.err().expect("nobody is there");
    assert!(matches!(refused, Error::Unreachable(_)), "{refused}");
    let refused = NatsLedger::open(&Options::new("http://h:1")).await.err().expect("it is no URL of NATS");
    assert!(matches!(refused, Error::Options(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_looked_for_and_not_guessed() {
    let Some(h) = Nats::new(1).await else { return };
    let ledger = h.first.clone().expect("it is open");
    let claimed = ledger.apply(id(1), claim(1)).await.expect("the ledger works");
    // The server takes what is sent, and says nothing for longer than an answer is waited for.
    h.servers.freeze(0, true).expect("it stands still");
    let commands = [(id(1), settle(fence(&claimed), b"ok")), (id(2), claim(1)), (id(3), claim(1))];
    let mut calls: Vec<_> = commands
        .into_iter()
        .map(|(id, command)| {
            let ledger = Arc::clone(&ledger);
            tokio::spawn(async move { ledger.apply(id, command).await })
        })
        .collect();
    let unreachable = || matches!(ledger.health(), Health::Unreachable(_));
    assert!(tokio::task::block_in_place(|| wait_until(Duration::from_secs(20), unreachable)));
    // One of those who ask goes away.
    calls.pop().expect("three calls").abort();
    h.servers.freeze(0, false).expect("it goes on");
    for call in calls {
        let applied = call.await.expect("no task panics").expect("the ledger works again");
        assert_eq!(applied.reply, Reply::Applied);
    }
    let other = h.second.clone().expect("it is open");
    assert_eq!(other.look_up(id(1)).await.expect("it works").phase(), Phase::Settled);
    assert_eq!(other.look_up(id(2)).await.expect("it works").phase(), Phase::Open);
    // What nobody was told of is taken back, and the key is free.
    let mut free = false;
    for _ in 0..200 {
        free = other.look_up(id(3)).await.expect("it works").phase() == Phase::Absent;
        if free {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(free, "a claim that nobody was told of keeps its key");
    let ready = || ledger.health() == Health::Ready;
    assert!(tokio::task::block_in_place(|| wait_until(Duration::from_secs(20), ready)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_forgot_what_it_had_acknowledged_stops_the_engine() {
    let Some(mut h) = Nats::new(1).await else { return };
    let ledger = h.first.clone().expect("it is open");
    ledger.apply(id(1), claim(1)).await.expect("the ledger works");
    let kept = tempfile::tempdir().expect("a folder");
    h.servers.kill(0).expect("it dies");
    copy(&h.servers.data(0), kept.path());
    h.servers.restart().expect("it starts");
    for n in 2..6 {
        ledger.apply(id(n), claim(1)).await.expect("the ledger works");
    }
    h.servers.kill(0).expect("it dies");
    std::fs::remove_dir_all(h.servers.data(0)).expect("its data are gone");
    copy(kept.path(), &h.servers.data(0));
    h.servers.restart().expect("it starts");
    let refused = ledger.apply(id(5), claim(2)).await;
    assert!(matches!(refused, Err(LedgerError::Stopped(_))), "{refused:?}");
    assert!(matches!(ledger.health(), Health::Stopped(_)));
    assert!(matches!(ledger.look_up(id(5)).await, Err(LedgerError::Stopped(_))));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("it can be read") {
        let entry = entry.expect("it can be read");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("it can be read").is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("it can be copied");
        }
    }
}

/// Two gateways race for every key on three servers while the stream's leader is killed: one wins each key, and
/// everything that was acknowledged is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_dies_under_load() {
    const KEYS: u64 = 600;
    const CALLERS: u64 = 24;
    let Some(mut h) = Nats::new(3).await else { return };
    let gateways = [h.first.clone().expect("it is open"), h.second.clone().expect("it is open")];
    let settled = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let clock = Stopwatch::start();
    let mut callers = JoinSet::new();
    for n in 0..CALLERS {
        // Two callers of different gateways go through the same keys in the same order.
        let (ledger, first, settled) = (Arc::clone(&gateways[n as usize % 2]), n / 2, Arc::clone(&settled));
        callers.spawn(async move {
            let (mut won, mut at_us, mut doubts) = (Vec::new(), Vec::new(), 0);
            for key in (first..KEYS).step_by(CALLERS as usize / 2) {
                let Ok(applied) = ledger.apply(id(key), claim(n)).await else {
                    doubts += 1;
                    continue;
                };
                if applied.reply != Reply::Applied {
                    continue;
                }
                let acknowledged = ledger.apply(id(key), settle(fence(&applied), &n.to_be_bytes())).await.is_ok();
                settled.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                won.push((key, n, acknowledged));
                at_us.push(clock.micros());
            }
            (won, at_us, doubts)
        });
    }
    let enough = || settled.load(std::sync::atomic::Ordering::SeqCst) > KEYS / 4;
    assert!(tokio::task::block_in_place(|| wait_until(Duration::from_secs(60), enough)));
    let leader = h.servers.leader("semel").expect("a leader");
    h.servers.kill(leader).expect("it dies");
    let (mut winners, mut at_us, mut doubts) = (std::collections::BTreeMap::new(), Vec::new(), 0);
    for (won, settled_at_us, doubted) in callers.join_all().await {
        doubts += doubted;
        at_us.extend(settled_at_us);
        for (key, n, acknowledged) in won {
            assert_eq!(winners.insert(key, (n, acknowledged)), None, "key {key} was won twice");
        }
    }
    at_us.sort_unstable();
    let gap_ms = at_us.windows(2).map(|pair| (pair[1] - pair[0]) / 1000).max().unwrap_or(0);
    eprintln!("nothing was settled for {gap_ms} ms, {doubts} calls were not answered in time");
    assert!(doubts <= CALLERS, "an election is ridden out: {doubts} calls were not");
    h.servers.restart().expect("it starts again");
    for (key, (n, acknowledged)) in winners {
        let seen = gateways[key as usize % 2].look_up(id(key)).await.expect("the ledger works");
        let Some(record) = seen.record else { panic!("key {key} is absent, though it was claimed") };
        if acknowledged {
            let expected = settle(record.fence, &n.to_be_bytes());
            let repeated = gateways[0].apply(id(key), expected).await.expect("the ledger works");
            assert_eq!(repeated.reply, Reply::Unchanged, "key {key} holds another answer: {record:?}");
        }
    }
}
