//! Durable claim+settle pairs per second, of the store alone and through the `Ledger` trait, beside a small probe of
//! the disk in the same run; and filling with many records: memory while filling, and how long reopening takes.
//!
//! `cargo bench -p semel-ledger-embedded --bench pairs -- [--seconds 5] [--body 200] [--records 1000000] [--dir DIR]`
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time and probes the disk")]

use semel_core::{
    answer::{StoredAnswer, StoredHeaders},
    effect::{Authority, Claim, Command, OnUnknown, Outcome, Owner, Reply, Terms},
    fingerprint::{Fingerprint, FingerprintInput},
    scope::{EffectId, Principal},
};
use semel_ledger::Ledger;
use semel_ledger_embedded::{
    EmbeddedLedger, Error, Stats,
    store::{Fate, Key, Machine, Options, Store, Transaction, View, space},
};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

enum Operation {
    Claim([u8; 32]),
    Settle([u8; 32], Arc<[u8]>),
}

/// What the ledger does, reduced to its reads and writes.
struct Pairs;

impl Machine for Pairs {
    type Operation = Operation;
    type Answer = bool;

    fn decide(&mut self, operation: Operation, transaction: &mut Transaction<'_>) -> Result<bool, Error> {
        match operation {
            Operation::Claim(id) => {
                let (live, settled) = (key(space::LIVE, &id), key(space::SETTLED, &id));
                if transaction.get(&live)?.is_some() || transaction.get(&settled)?.is_some() {
                    return Ok(false);
                }
                transaction.put(&live, None, |out| out.extend_from_slice(&[7; 160]));
                Ok(true)
            }
            Operation::Settle(id, body) => {
                let live = key(space::LIVE, &id);
                if transaction.get(&live)?.is_none() {
                    return Ok(false);
                }
                transaction.delete(&live);
                transaction.put(&key(space::SETTLED, &id), Some(u64::MAX - 1), |out| out.extend_from_slice(&body));
                Ok(true)
            }
        }
    }

    fn concluded(&mut self, _: Fate) {}

    fn recover(&mut self, _: &View) -> Result<Vec<Operation>, Error> {
        Ok(Vec::new())
    }
}

fn key(space: u8, id: &[u8]) -> Key {
    Key::from_parts(&[&[space], id]).unwrap()
}

/// Ids as uniform as keyed hashes are.
fn id(n: u64) -> [u8; 32] {
    let mut out = [0; 32];
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    for chunk in out.chunks_mut(8) {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        chunk.copy_from_slice(&x.to_le_bytes());
    }
    out
}

struct Arguments {
    seconds: f64,
    body: usize,
    records: u64,
    dir: PathBuf,
    writers: Vec<usize>,
    fill_only: bool,
}

fn arguments() -> Arguments {
    let mut arguments = Arguments {
        seconds: 5.0,
        body: 200,
        records: 1_000_000,
        dir: PathBuf::from("target/bench-pairs"),
        writers: vec![1, 64],
        fill_only: false,
    };
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        match word.as_str() {
            "--fill-only" => arguments.fill_only = value.parse().unwrap(),
            "--seconds" => arguments.seconds = value.parse().unwrap(),
            "--body" => arguments.body = value.parse().unwrap(),
            "--records" => arguments.records = value.parse().unwrap(),
            "--dir" => arguments.dir = value.into(),
            "--writers" => arguments.writers = value.split(',').map(|n| n.parse().unwrap()).collect(),
            other => panic!("unknown argument {other}"),
        }
    }
    arguments
}

fn main() {
    let arguments = arguments();
    fs::create_dir_all(&arguments.dir).unwrap();
    if arguments.fill_only {
        fill(&arguments);
        // As kill -9 would: nothing is closed.
        std::process::abort();
    }
    probe(&arguments.dir);
    for &writers in &arguments.writers {
        pairs(&arguments, writers);
        ledger_pairs(&arguments, writers);
    }
    if arguments.records > 0 {
        fill_and_reopen(&arguments);
    }
    fs::remove_dir_all(&arguments.dir).unwrap();
}

/// One block and a flush: in place, and appended.
fn probe(dir: &Path) {
    let path = dir.join("probe");
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap();
    file.write_all_at(&vec![0; 16 << 20], 0).unwrap();
    file.sync_all().unwrap();
    for (name, base) in [("in place", 0u64), ("appended", 16 << 20)] {
        let rounds = 500u64;
        let start = Instant::now();
        for n in 0..rounds {
            file.write_all_at(&[1; 4096], base + n * 4096).unwrap();
            file.sync_data().unwrap();
        }
        println!(
            "probe   4 KiB + fdatasync, {name:8}   {:7.1} us",
            start.elapsed().as_secs_f64() * 1e6 / rounds as f64
        );
    }
    fs::remove_file(path).unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

fn fresh(arguments: &Arguments) -> Options {
    let dir = arguments.dir.join("ledger");
    let _ = fs::remove_dir_all(&dir);
    Options::new(dir)
}

/// Runs pairs in `writers` tasks until `stop(pairs so far)`; returns how many.
async fn drive(store: &Arc<Store<Pairs>>, writers: usize, body: usize, limit: u64, stop: &Arc<AtomicBool>) -> u64 {
    let next = Arc::new(AtomicU64::new(0));
    let body: Arc<[u8]> = vec![b'x'; body].into();
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (store, next, body, stop) = (store.clone(), next.clone(), body.clone(), stop.clone());
            tokio::spawn(async move {
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= limit {
                        break;
                    }
                    assert!(store.call(Operation::Claim(id(n))).await.unwrap());
                    assert!(store.call(Operation::Settle(id(n), body.clone())).await.unwrap());
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.unwrap();
    }
    done
}

fn pairs(arguments: &Arguments, writers: usize) {
    let store = Arc::new(Store::open(&fresh(arguments), Pairs).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let run = drive(&store, writers, arguments.body, u64::MAX, &stop);
    let (done, seconds, cpu) = timed(arguments, &stop, run);
    report("store ", arguments, writers, (done, seconds, cpu), &store.stats().unwrap());
}

/// The same through the trait: decided by the core, encoded and decoded as the gateway does it.
fn ledger_pairs(arguments: &Arguments, writers: usize) {
    let ledger = Arc::new(EmbeddedLedger::open(fresh(arguments), Owner(1)).unwrap());
    let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let body = bytes::Bytes::from(vec![b'x'; arguments.body]);
    let claim = claim();
    let run = async {
        let tasks: Vec<_> = (0..writers)
            .map(|_| {
                let (ledger, next, stop) = (ledger.clone(), next.clone(), stop.clone());
                let (claim, body) = (claim.clone(), body.clone());
                tokio::spawn(async move {
                    let mut done = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let id = id(next.fetch_add(1, Ordering::Relaxed));
                        let id = EffectId::from_bytes(id[..16].try_into().unwrap());
                        let claimed = ledger.apply(id, Command::Claim(claim.clone())).await.unwrap();
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
        let mut done = 0;
        for task in tasks {
            done += task.await.unwrap();
        }
        done
    };
    let timed = timed(arguments, &stop, run);
    report("ledger", arguments, writers, timed, &ledger.stats().unwrap());
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

/// Runs until the time is over; returns the pairs, the seconds and the CPU seconds.
fn timed(arguments: &Arguments, stop: &Arc<AtomicBool>, run: impl Future<Output = u64>) -> (u64, f64, f64) {
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let done = runtime().block_on(async {
        let timer = tokio::spawn({
            let (stop, patience) = (stop.clone(), Duration::from_secs_f64(arguments.seconds));
            async move {
                tokio::time::sleep(patience).await;
                stop.store(true, Ordering::Relaxed);
            }
        });
        let done = run.await;
        timer.await.unwrap();
        done
    });
    (done, start.elapsed().as_secs_f64(), cpu_seconds() - cpu)
}

fn report(what: &str, arguments: &Arguments, writers: usize, timed: (u64, f64, f64), stats: &Stats) {
    let (done, seconds, cpu) = timed;
    println!(
        "{what}  {writers:3} writers, {} B bodies   {:8.0} pairs/s   {:5.1} us CPU a pair   {:5.1} operations a batch",
        arguments.body,
        done as f64 / seconds,
        cpu * 1e6 / done as f64,
        2.0 * done as f64 / stats.last_batch as f64,
    );
}

fn fill(arguments: &Arguments) {
    let options = fresh(arguments);
    let store = Arc::new(Store::open(&options, Pairs).unwrap());
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let stop = Arc::new(AtomicBool::new(false));
    let peak = Arc::new(AtomicU64::new(0));
    let watcher = std::thread::spawn({
        let (stop, peak) = (stop.clone(), peak.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                peak.fetch_max(resident_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let done = runtime().block_on(drive(&store, 64, 1024, arguments.records, &Arc::new(AtomicBool::new(false))));
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "fill    {done} records of 1 KiB in {seconds:.1} s   {:.0} pairs/s   {:.1} us CPU a pair   peak resident {} MB",
        done as f64 / seconds,
        (cpu_seconds() - cpu) * 1e6 / done as f64,
        peak.load(Ordering::Relaxed) >> 20,
    );
    println!("        {:?}", store.stats().unwrap());
    stop.store(true, Ordering::Relaxed);
    watcher.join().unwrap();
}

fn fill_and_reopen(arguments: &Arguments) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--fill-only", "true", "--records", &arguments.records.to_string(), "--dir"]).arg(&arguments.dir);
    child.status().unwrap();
    let options = Options::new(arguments.dir.join("ledger"));
    let done = arguments.records;
    let start = Instant::now();
    let store = Arc::new(Store::open(&options, Pairs).unwrap());
    println!("reopen  {:.3} s   resident {} MB", start.elapsed().as_secs_f64(), resident_bytes() >> 20);
    let start = Instant::now();
    let reads = 20_000;
    for n in 0..reads {
        assert!(store.get(&key(space::SETTLED, &id(n * 37 % done))).unwrap().is_some());
    }
    println!("read    settled   {:.2} us", start.elapsed().as_secs_f64() * 1e6 / reads as f64);
    let start = Instant::now();
    for n in 0..reads {
        assert!(store.get(&key(space::SETTLED, &id(done + n))).unwrap().is_none());
    }
    println!("read    absent    {:.2} us", start.elapsed().as_secs_f64() * 1e6 / reads as f64);
    println!("resident {} MB", resident_bytes() >> 20);
}

fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
