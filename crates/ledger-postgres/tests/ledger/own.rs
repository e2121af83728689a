//! What is the PostgreSQL engine's own: partitions, lost and cancelled commits, poolers, TLS, standbys.

use std::process::Command as Program;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use semel_core::answer::{StoredAnswer, StoredHeaders};
use semel_core::effect::{Authority, Claim, Command, Fence, OnUnknown, Outcome, Owner, Phase, Reply, Terms};
use semel_core::fingerprint::{Fingerprint, FingerprintInput};
use semel_core::scope::{EffectId, Principal};
use semel_core::time::Timestamp;
use semel_ledger::{Applied, Clock as _, Health, Ledger, LedgerError, ManualClock, SystemClock};
use semel_ledger_postgres::{Error, Options, PostgresLedger, migrate};
use semel_testkit::clock::wait_until;
use semel_testkit::postgres::{Pooler, Server, unavailable};
use semel_testkit::skipped;
use tokio::task::JoinSet;

use crate::harness::{MANUAL_CLOCK, options};

const LEASE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(86_400);
/// Longest wait for what must happen.
const BOUND: Duration = Duration::from_secs(20);

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
    let day_ms = 86_400_000;
    let terms = Arc::new(Terms {
        scope: "payments".into(),
        upstream: "payments".into(),
        on_unknown: OnUnknown::Hold,
        upstream_keep_ms: 0,
        keep_ms: day_ms,
        marker_ms: 7 * day_ms,
    });
    Command::Claim(Claim { owner: Owner(owner), lease: LEASE, fingerprint, proof: Principal::anyone().proof(), terms })
}

fn settle(fence: Fence) -> Command {
    let body = Bytes::from_static(b"charged");
    let outcome = Outcome::Settled(StoredAnswer { status: StatusCode::OK, headers: StoredHeaders::default(), body });
    Command::Settle { fence, outcome, by: Authority::Owner, attempts: 1 }
}

fn fence(applied: &Applied) -> Fence {
    applied.seen.record.as_ref().expect("a record").fence
}

/// A server with the schema; none where none can be started.
async fn server(settings: &str) -> Option<Server> {
    if let Some(why) = unavailable() {
        skipped(&why);
        return None;
    }
    let server = Server::start(settings).expect("PostgreSQL starts");
    migrate(&options(&server)).await.expect("the schema is made");
    Some(server)
}

async fn open(options: &Options) -> Arc<PostgresLedger> {
    Arc::new(PostgresLedger::open(options).await.expect("the ledger opens"))
}

async fn settled(ledger: &PostgresLedger, n: u64) {
    let claimed = ledger.apply(id(n), claim(1)).await.expect("it is claimed");
    let settled = ledger.apply(id(n), settle(fence(&claimed))).await.expect("it is settled");
    assert_eq!(settled.reply, Reply::Applied);
}

async fn phase(ledger: &PostgresLedger, n: u64) -> Phase {
    ledger.look_up(id(n)).await.expect("the ledger works").phase()
}

fn partitions(server: &Server) -> Vec<String> {
    let names = "SELECT relname FROM pg_class c JOIN pg_inherits i ON c.oid = i.inhrelid ORDER BY 1";
    server.sql(names).expect("it is asked").lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_dropped_and_never_deleted() {
    let Some(server) = server("").await else { return };
    server.sql(MANUAL_CLOCK).unwrap();
    let clock = ManualClock::at(Timestamp::EPOCH.plus(Duration::from_millis(SystemClock::start().now().as_millis())));
    let ledger = PostgresLedger::open_with_clock(&options(&server), Arc::new(clock.clone())).await.unwrap();
    let advance = |by: Duration| {
        clock.advance(by);
        server.sql(&format!("UPDATE semel.clock SET ms = ms + {}", by.as_millis())).unwrap();
    };
    for n in 1..=20 {
        settled(&ledger, n).await;
    }
    ledger.apply(id(100), claim(1)).await.unwrap();
    let first = partitions(&server);
    assert_eq!(ledger.sweep().await.unwrap(), 0, "nothing has ended");

    // The answers' windows end; their markers move on, into a partition of their own.
    advance(DAY * 2 + LEASE);
    assert_eq!((phase(&ledger, 1).await, phase(&ledger, 100).await), (Phase::Expired, Phase::Lapsed));
    assert!(ledger.sweep().await.unwrap() >= 1);
    assert!(!partitions(&server).iter().any(|name| first.contains(name)));
    assert_eq!(phase(&ledger, 1).await, Phase::Expired, "its marker is still there");

    // So do the markers, a week and at most a partition's length (8 days) later.
    advance(DAY * 16);
    assert!(ledger.sweep().await.unwrap() >= 1);
    assert_eq!((phase(&ledger, 1).await, phase(&ledger, 100).await), (Phase::Absent, Phase::Lapsed));
    assert_eq!(server.sql("SELECT count(*) FROM semel.settled").unwrap(), "0");
    let deleted = "SELECT coalesce(sum(n_tup_del), 0) FROM pg_stat_all_tables WHERE relname LIKE 'settled%'";
    assert_eq!(server.sql(deleted).unwrap(), "0");

    // Two clocks that disagree: nobody knows what has ended.
    settled(&ledger, 200).await;
    server.sql(&format!("UPDATE semel.clock SET ms = ms + {}", (DAY * 400).as_millis())).unwrap();
    assert_eq!(ledger.sweep().await.unwrap(), 0);
    assert_ne!(server.sql("SELECT count(*) FROM semel.settled").unwrap(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_lose_no_claim_and_make_none_twice() {
    const KEYS: u64 = 600;
    let Some(server) = server("").await else { return };
    let (one, two) = (open(&options(&server)).await, open(&options(&server)).await);
    let mut calls = JoinSet::new();
    for n in 0..KEYS {
        for (owner, ledger) in [(1, &one), (2, &two)] {
            let ledger = Arc::clone(ledger);
            calls.spawn(async move { (n, ledger.apply(id(n), claim(owner)).await) });
        }
    }
    let lose = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'semel'";
    let mut owners: Vec<Vec<Fence>> = vec![Vec::new(); usize::try_from(KEYS).unwrap()];
    let mut ended = 0;
    while let Some(call) = calls.join_next().await {
        let (n, applied) = call.unwrap();
        match applied {
            Ok(applied) if applied.reply == Reply::Applied => {
                owners[usize::try_from(n).unwrap()].push(fence(&applied));
            }
            Ok(_) | Err(LedgerError::Uncertain(_) | LedgerError::Unreachable(_)) => {}
            Err(other) => panic!("{other}"),
        }
        ended += 1;
        if ended % 200 == 1 {
            server.sql(lose).unwrap();
        }
    }
    for (n, owners) in (0..).zip(owners) {
        assert!(owners.len() <= 1, "{n} was claimed by {owners:?}");
        let stands = one.look_up(id(n)).await.unwrap();
        if let Some(owner) = owners.first() {
            assert_eq!(stands.record.map(|record| record.fence), Some(*owner), "the claim of {n} is lost");
        }
    }
}

/// A commit that waits for its standby is not acknowledged before the standby has it, also when the wait is cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_wait_for_the_standby_is_no_acknowledgement() {
    let Some(server) = server("").await else { return };
    let standby = server.standby("standby").unwrap();
    server.configure("synchronous_standby_names = 'standby'").unwrap();
    server.reload().unwrap();
    let in_sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    assert!(wait_until(BOUND, || server.sql(in_sync).is_ok_and(|n| n == "1")));
    let mut patient = options(&server);
    patient.patience = BOUND;
    let ledger = open(&patient).await;
    settled(&ledger, 1).await;

    standby.freeze(true).unwrap();
    let claiming = tokio::spawn({
        let ledger = Arc::clone(&ledger);
        async move { ledger.apply(id(2), claim(1)).await }
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%.turn(%'";
    assert!(wait_until(BOUND, || server.sql(waits).is_ok_and(|n| n == "1")));
    server.sql(&waits.replace("count(*)", "pg_cancel_backend(pid)")).unwrap();
    let written = "SELECT count(*) FROM semel.live WHERE id = '00000000-0000-0000-0000-000000000002'";
    assert!(wait_until(BOUND, || server.sql(written).is_ok_and(|n| n == "1")), "the cancelled commit stands here");
    // It looks for another connection, on which nothing can be committed either.
    assert!(wait_until(BOUND, || matches!(ledger.health(), Health::Unreachable(_))));
    assert!(!claiming.is_finished(), "it was answered before the standby had it");
    standby.freeze(false).unwrap();
    let claimed = claiming.await.unwrap().unwrap();
    assert_eq!(claimed.reply, Reply::Applied);
    drop(server);
    standby.promote().unwrap();
    let heir = open(&options(&standby)).await;
    let stands = heir.look_up(id(2)).await.unwrap();
    assert_eq!(stands.record.map(|record| record.fence), Some(fence(&claimed)));
    assert_eq!(phase(&heir, 1).await, Phase::Settled);
    let next = heir.apply(id(3), claim(1)).await.unwrap();
    assert!(fence(&next) > fence(&claimed), "fences go on above all that were given");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_never_asked() {
    let Some(server) = server("").await else { return };
    let standby = server.standby("standby").unwrap();
    let refused = PostgresLedger::open(&options(&standby)).await.err().map(|error| error.to_string());
    assert!(refused.as_ref().is_some_and(|why| why.contains("does not allow writes")), "{refused:?}");
    let mut both = options(&standby);
    both.url = standby.url_with(&[&server]);
    settled(&*open(&both).await, 1).await;
}

/// Also in the middle of its life a connection that leads to a server that is a primary no more decides nothing.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_lose_commits_are_refused_at_every_call() {
    let Some(server) = server("").await else { return };
    let ledger = open(&options(&server)).await;
    settled(&ledger, 1).await;
    server.sql("ALTER SYSTEM SET synchronous_commit = off").unwrap();
    server.reload().unwrap();
    let refused = || server.sql("SELECT semel.guard(9223372036854775807)").is_err();
    assert!(wait_until(BOUND, refused), "the setting is seen");
    let claimed = ledger.apply(id(2), claim(1)).await;
    assert!(
        matches!(&claimed, Err(LedgerError::Unreachable(why)) if why.contains("synchronous_commit")),
        "{claimed:?}"
    );
    assert!(matches!(PostgresLedger::open(&options(&server)).await, Err(Error::NotDurable(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_may_stand_in_between() {
    if let Some(why) = Pooler::unavailable() {
        return skipped(&why);
    }
    let Some(server) = server("").await else { return };
    let pooler = Pooler::start(&server).unwrap();
    let mut pooled = options(&server);
    pooled.url = pooler.url();
    // Without a way for notifications, those who wait look now and then, and are served all the same.
    let (one, two) = (open(&pooled).await, open(&pooled).await);
    settled(&one, 1).await;
    assert_eq!(phase(&two, 1).await, Phase::Settled);
    joined(&one, &two, 2).await;
    // With one, they are told.
    pooled.listen_url = Some(server.url());
    let (one, two) = (open(&pooled).await, open(&pooled).await);
    joined(&one, &two, 3).await;
    is_told_without_asking(&server, &one, &two, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_told_and_does_not_ask() {
    let Some(server) = server("").await else { return };
    let (one, two) = (open(&options(&server)).await, open(&options(&server)).await);
    is_told_without_asking(&server, &one, &two, 1).await;
}

/// `two` waits for what `one` does.
async fn joined(one: &Arc<PostgresLedger>, two: &Arc<PostgresLedger>, n: u64) {
    let claimed = one.apply(id(n), claim(1)).await.unwrap();
    let waiting = tokio::spawn({
        let two = Arc::clone(two);
        async move { two.await_conclusion(id(n), BOUND, 8).await }
    });
    one.apply(id(n), settle(fence(&claimed))).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().phase(), Phase::Settled);
}

/// Twenty who wait at another gateway for four seconds cost no statements, and all are woken.
async fn is_told_without_asking(server: &Server, one: &Arc<PostgresLedger>, two: &Arc<PostgresLedger>, n: u64) {
    // The way is checked before anything is heard.
    joined(one, two, n + 1000).await;
    let claimed = one.apply(id(n), claim(1)).await.unwrap();
    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        let two = Arc::clone(two);
        waiting.spawn(async move { two.await_conclusion(id(n), BOUND, 32).await });
    }
    let marked = format!("SELECT count(*) FROM semel.live WHERE awaited AND fence = {}", fence(&claimed).0);
    assert!(wait_until(BOUND, || server.sql(&marked).is_ok_and(|n| n == "1")));
    let since = server.sql("SELECT extract(epoch FROM now() + interval '0.3 s')").unwrap();
    let asked = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%.look(%' AND query_start > to_timestamp({since}) \
         AND pid <> pg_backend_pid()"
    );
    let somebody_asked = wait_until(Duration::from_secs(4), || server.sql(&asked).is_ok_and(|n| n != "0"));
    assert!(!somebody_asked, "those who wait ask again and again");
    one.apply(id(n), settle(fence(&claimed))).await.unwrap();
    while let Some(seen) = waiting.join_next().await {
        assert_eq!(seen.unwrap().unwrap().phase(), Phase::Settled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked() {
    let Some(server) = server("").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let ran = Program::new("openssl").args(arguments.split(' ')).current_dir(folder.path()).output();
        ran.is_ok_and(|output| output.status.success())
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let made = ["ca", "other"]
        .iter()
        .all(|name| openssl(&format!("req -x509 {key} -keyout {name}.key -out {name}.crt -subj /CN={name} -days 2")))
        && openssl(&format!(
            "req {key} -keyout server.key -out server.csr -subj /CN=server -addext subjectAltName=IP:127.0.0.1"
        ))
        && openssl(
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 2 -copy_extensions copy",
        );
    if !made {
        return skipped("certificates are made with openssl 3 (Debian package openssl)");
    }
    for file in ["server.crt", "server.key"] {
        server.put(file, &folder.path().join(file)).unwrap();
    }
    server.configure("ssl = on").unwrap();
    server.reload().unwrap();
    let with = |ca: &str| {
        let mut options = options(&server);
        options.url += "?sslmode=require";
        options.ca_file = Some(folder.path().join(ca));
        options
    };
    assert!(wait_until(BOUND, || server.sql("SHOW ssl").is_ok_and(|ssl| ssl == "on")));
    let ledger = open(&with("ca.crt")).await;
    settled(&ledger, 1).await;
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'semel'";
    assert_eq!(server.sql(encrypted).unwrap(), "t");
    let refused = PostgresLedger::open(&with("other.crt")).await.err().map(|error| error.to_string());
    assert!(refused.as_ref().is_some_and(|why| why.contains("certificate")), "{refused:?}");
}
