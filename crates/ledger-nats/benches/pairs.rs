//! Durable claim + settle per second through the `Ledger` trait, with and without the look-up before it, of one gateway and
//! of two, beside single publications with an expected sequence to a stream like the ledger's, in the same run on the same
//! servers.
//!
//! `cargo bench -p semel-ledger-nats --bench pairs -- [--seconds 5] [--body 200] [--callers 1,64,512] [--servers 3]`
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use async_nats::{HeaderMap, Request};
use semel_core::answer::{StoredAnswer, StoredHeaders};
use semel_core::effect::{Authority, Claim, Command, OnUnknown, Outcome, Owner, Reply, Terms};
use semel_core::fingerprint::{Fingerprint, FingerprintInput};
use semel_core::scope::{EffectId, Principal};
use semel_ledger::Ledger;
use semel_ledger_nats::{NatsLedger, Options, Survey, migrate};
use semel_testkit::nats::Servers;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

struct Arguments {
    seconds: f64,
    body: usize,
    callers: Vec<usize>,
    servers: usize,
}

fn arguments() -> Arguments {
    let mut arguments = Arguments { seconds: 5.0, body: 200, callers: vec![1, 64, 512], servers: 3 };
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        match word.as_str() {
            "--seconds" => arguments.seconds = value.parse().unwrap(),
            "--body" => arguments.body = value.parse().unwrap(),
            "--callers" => arguments.callers = value.split(',').map(|n| n.parse().unwrap()).collect(),
            "--servers" => arguments.servers = value.parse().unwrap(),
            other => panic!("unknown argument {other}"),
        }
    }
    arguments
}

fn main() {
    let arguments = arguments();
    let servers = Servers::start(arguments.servers).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut options = Options::new(servers.url());
        options.system_url = Some(servers.system_url());
        options.replicas = arguments.servers;
        migrate(&options).await.unwrap();
        make_raw(&servers).await;
        for &callers in &arguments.callers {
            raw(&arguments, &servers, callers).await;
            for (gateways, look) in [(1, false), (1, true), (2, true)] {
                let mut ledgers = Vec::new();
                for _ in 0..gateways {
                    ledgers.push(Arc::new(NatsLedger::open(&options).await.unwrap()));
                }
                pairs(&arguments, &ledgers, callers, look).await;
            }
        }
        let survey = Survey::open(&options).await.unwrap();
        println!("{:.0} bytes for each effect, on each server", survey.bytes() as f64 / survey.messages() as f64);
    });
}

/// A stream with the settings of the ledger's.
async fn make_raw(servers: &Servers) {
    let client = async_nats::connect(servers.url_of(0)).await.unwrap();
    let replicas = servers.count();
    let config = format!(
        r#"{{"name":"raw","subjects":["raw.*"],"storage":"file","retention":"limits","discard":"new","max_msgs":-1,
        "max_bytes":-1,"max_age":0,"max_msgs_per_subject":1,"num_replicas":{replicas},"allow_msg_ttl":true}}"#
    );
    let made = client.request("$JS.API.STREAM.CREATE.raw", config.into()).await.unwrap();
    assert!(!has_error(&made.payload), "{made:?}");
}

fn has_error(payload: &[u8]) -> bool {
    payload.windows(7).any(|window| window == b"\"error\"")
}

/// One small message per round trip and caller, each the first under its subject.
async fn raw(arguments: &Arguments, servers: &Servers, callers: usize) {
    let client = async_nats::connect(servers.url().split(',').collect::<Vec<_>>()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut done = 0;
                let payload = bytes::Bytes::from(vec![7_u8; 160]);
                while !stop.load(Ordering::Relaxed) {
                    let subject = format!("raw.{}", id(NEXT.fetch_add(1, Ordering::Relaxed)));
                    let mut headers = HeaderMap::new();
                    headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
                    let request = Request::new().headers(headers).payload(payload.clone());
                    let answer = client.send_request(subject, request).await.unwrap();
                    assert!(!has_error(&answer.payload), "{answer:?}");
                    done += 1;
                }
                done
            })
        })
        .collect();
    report(arguments, &format!("raw publications, {callers:3} callers"), stop, tasks).await;
}

async fn pairs(arguments: &Arguments, ledgers: &[Arc<NatsLedger>], callers: usize, look: bool) {
    let body = bytes::Bytes::from(vec![b'x'; arguments.body]);
    let base = ledgers[0].now().as_millis() << 20;
    let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(base)));
    let claim = claim();
    let tasks: Vec<_> = (0..callers)
        .map(|n| {
            let (ledger, next, stop) = (Arc::clone(&ledgers[n % ledgers.len()]), Arc::clone(&next), Arc::clone(&stop));
            let (claim, body) = (claim.clone(), body.clone());
            tokio::spawn(async move {
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    let id = id(next.fetch_add(1, Ordering::Relaxed));
                    if look {
                        assert_eq!(ledger.look_up(id).await.unwrap().record, None);
                    }
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
    let looked = if look { "look-up + " } else { "" };
    let what = format!("{looked}claim + settle, {callers:3} callers, {} gateways", ledgers.len());
    report(arguments, &what, stop, tasks).await;
}

/// Lets the tasks run for the time, and tells what they did.
async fn report(arguments: &Arguments, what: &str, stop: Arc<AtomicBool>, tasks: Vec<JoinHandle<u64>>) {
    let (cpu, start) = (cpu_seconds(), Instant::now());
    tokio::time::sleep(Duration::from_secs_f64(arguments.seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut done = 0;
    let callers = tasks.len();
    for task in tasks {
        done += task.await.unwrap();
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{what:52} {:8.0}/s   {:6.2} ms each   {:5.1} us of this process's CPU",
        done as f64 / seconds,
        seconds * 1e3 * callers as f64 / done as f64,
        (cpu_seconds() - cpu) * 1e6 / done as f64,
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
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
