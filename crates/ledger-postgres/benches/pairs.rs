//! Durable look-up + claim + settle per second through the `Ledger` trait, of one gateway and of two, beside the
//! database's own rate of single inserts, one statement a round trip, in the same run on the same server.
//!
//! `cargo bench -p semel-ledger-postgres --bench pairs -- [--seconds 5] [--body 200] [--callers 1,64] [--connections 4]`
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use semel_core::{
    answer::{StoredAnswer, StoredHeaders},
    effect::{Authority, Claim, Command, OnUnknown, Outcome, Owner, Reply, Terms},
    fingerprint::{Fingerprint, FingerprintInput},
    scope::{EffectId, Principal},
};
use semel_ledger::Ledger;
use semel_ledger_postgres::{Options, PostgresLedger, migrate};
use semel_testkit::postgres::Server;
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

struct Arguments {
    seconds: f64,
    body: usize,
    callers: Vec<usize>,
    connections: usize,
}

fn arguments() -> Arguments {
    let mut arguments = Arguments { seconds: 5.0, body: 200, callers: vec![1, 64], connections: 4 };
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        match word.as_str() {
            "--seconds" => arguments.seconds = value.parse().unwrap(),
            "--body" => arguments.body = value.parse().unwrap(),
            "--callers" => arguments.callers = value.split(',').map(|n| n.parse().unwrap()).collect(),
            "--connections" => arguments.connections = value.parse().unwrap(),
            other => panic!("unknown argument {other}"),
        }
    }
    arguments
}

fn main() {
    let arguments = arguments();
    let server = Server::start("shared_buffers = 256MB\nmax_wal_size = 2GB\nmax_connections = 400").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut options = Options::new(server.url());
        options.connections = arguments.connections;
        migrate(&options).await.unwrap();
        for &callers in &arguments.callers {
            raw(&arguments, &server, callers).await;
            for gateways in [1, 2] {
                let mut ledgers = Vec::new();
                for _ in 0..gateways {
                    ledgers.push(Arc::new(PostgresLedger::open(&options).await.unwrap()));
                }
                pairs(&arguments, &server, &ledgers, callers).await;
            }
        }
    });
}

/// One prepared insert of one small row per round trip, a connection for each caller.
async fn raw(arguments: &Arguments, server: &Server, callers: usize) {
    server.sql("DROP TABLE IF EXISTS raw; CREATE TABLE raw (id bytea PRIMARY KEY, record bytea NOT NULL)").unwrap();
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for _ in 0..callers {
        let (client, connection) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        clients.push(client);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let (next, stop) = (next.clone(), stop.clone());
            tokio::spawn(async move {
                let statement = "INSERT INTO raw VALUES ($1, $2) ON CONFLICT DO NOTHING";
                let statement = client.prepare(statement).await.unwrap();
                let record = vec![7_u8; 160];
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    let id = *id(next.fetch_add(1, Ordering::Relaxed)).as_bytes();
                    let id: &[u8] = &id;
                    assert_eq!(client.execute(&statement, &[&id, &record]).await.unwrap(), 1);
                    done += 1;
                }
                done
            })
        })
        .collect();
    report(arguments, server, &format!("raw inserts, {callers:2} connections"), stop, tasks).await;
}

async fn pairs(arguments: &Arguments, server: &Server, ledgers: &[Arc<PostgresLedger>], callers: usize) {
    let body = bytes::Bytes::from(vec![b'x'; arguments.body]);
    let base = ledgers[0].now().as_millis() << 20;
    let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(base)));
    let claim = claim();
    let tasks: Vec<_> = (0..callers)
        .map(|n| {
            let (ledger, next, stop) = (ledgers[n % ledgers.len()].clone(), next.clone(), stop.clone());
            let (claim, body) = (claim.clone(), body.clone());
            tokio::spawn(async move {
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    let id = id(next.fetch_add(1, Ordering::Relaxed));
                    assert_eq!(ledger.look_up(id).await.unwrap().record, None);
                    let claimed = ledger.apply(id, Command::Claim(claim.clone())).await.unwrap();
                    assert_eq!(claimed.reply, Reply::Applied);
                    let fence = claimed.seen.record.unwrap().fence;
                    let (status, headers) = (http::StatusCode::CREATED, StoredHeaders::default());
                    let outcome = Outcome::Settled(StoredAnswer { status, headers, body: body.clone() });
                    let settle = Command::Settle { fence, outcome, by: Authority::Owner, attempts: 1 };
                    assert_eq!(ledger.apply(id, settle).await.unwrap().reply, Reply::Applied);
                    done += 1;
                }
                done
            })
        })
        .collect();
    let what = format!("effects, {callers:2} callers, {} gateways", ledgers.len());
    report(arguments, server, &what, stop, tasks).await;
}

/// Lets the tasks run for the time, and tells what they did.
async fn report(
    arguments: &Arguments,
    server: &Server,
    what: &str,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
) {
    let commits = || server.sql("SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'").unwrap();
    let (cpu, start, before) = (cpu_seconds(), Instant::now(), commits());
    tokio::time::sleep(Duration::from_secs_f64(arguments.seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut done = 0;
    let callers = tasks.len();
    for task in tasks {
        done += task.await.unwrap();
    }
    let seconds = start.elapsed().as_secs_f64();
    let commits = commits().parse::<f64>().unwrap() - before.parse::<f64>().unwrap();
    println!(
        "{what:32} {:8.0}/s   {:6.2} ms each   {:5.1} us of this process's CPU   {:4.1} commits each",
        done as f64 / seconds,
        seconds * 1e3 * callers as f64 / done as f64,
        (cpu_seconds() - cpu) * 1e6 / done as f64,
        commits / done as f64,
    );
}

fn claim() -> Claim {
    let input = FingerprintInput {
        method: &http::Method::POST,
        path: "/pay",
        query: None,
        headers: &http::HeaderMap::new(),
        body: b"10",
    };
    Claim {
        owner: Owner(1),
        lease: Duration::from_secs(30),
        fingerprint: Fingerprint::of(&input),
        proof: Principal::anyone().proof(),
        terms: Arc::new(Terms {
            scope: "payments".into(),
            upstream: "payments".into(),
            on_unknown: OnUnknown::Hold,
            upstream_keep_ms: 0,
            keep_ms: 86_400_000,
            marker_ms: 7 * 86_400_000,
        }),
    }
}

/// Ids as uniform as keyed hashes are.
fn id(n: u64) -> EffectId {
    let mut out = [0; 16];
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    for chunk in out.chunks_mut(8) {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        chunk.copy_from_slice(&x.to_le_bytes());
    }
    EffectId::from_bytes(out)
}

fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
