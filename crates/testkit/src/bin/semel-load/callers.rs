//! Callers over keep-alive connections, as fast as they are answered or at a fixed rate.

use super::processes::cpu_seconds;
use super::stub::content_length;
use clap::Args;
use memchr::memmem::Finder;
use serde_json::json;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

/// Load before anything is counted.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Args, Clone)]
pub(crate) struct Run {
    /// The server.
    #[arg(long)]
    target: SocketAddr,
    /// What is POSTed to.
    #[arg(long, default_value = "/pay")]
    path: String,
    /// Connections, each with one call at a time.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds that are counted, after one second of warming up.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Calls per second over all connections; as many as possible when left out.
    #[arg(long)]
    rate: Option<f64>,
    /// `none`, `unique`, or a number of keys that are used again and again.
    #[arg(long, default_value = "none")]
    keys: String,
    /// Makes the keys of this run differ from those of another.
    #[arg(long, default_value = "run")]
    run: String,
    /// Bytes of the JSON body.
    #[arg(long, default_value_t = 1024)]
    body_bytes: usize,
    /// Stop after this many calls instead of after the time.
    #[arg(long)]
    calls: Option<u64>,
    /// Processes whose CPU time is reported, with that of their children.
    #[arg(long = "pid")]
    pids: Vec<u32>,
}

/// What all callers share.
struct Shared {
    run: Run,
    head: String,
    body: String,
    next: Cell<u64>,
    counting: Cell<bool>,
    over: Cell<bool>,
}

/// What one caller has seen.
#[derive(Default)]
struct Seen {
    latencies_us: Vec<u32>,
    statuses: BTreeMap<u16, u64>,
    replayed: u64,
    errors: u64,
    last_error: Option<String>,
}

impl Run {
    pub(crate) async fn report(self) -> io::Result<()> {
        let local = LocalSet::new();
        let report = local.run_until(self.load()).await?;
        println!("{report}");
        Ok(())
    }

    async fn load(self) -> io::Result<serde_json::Value> {
        let shared = Rc::new(Shared::new(self.clone()));
        let mut callers = JoinSet::new();
        for caller in 0..self.connections {
            callers.spawn_local(call_on(Rc::clone(&shared), caller));
        }
        if self.calls.is_none() {
            tokio::time::sleep(WARM_UP).await;
        }
        let (cpu, start) = (cpu_seconds(&self.pids)?, Instant::now());
        shared.counting.set(true);
        let mut seen = Seen::default();
        if self.calls.is_none() {
            tokio::time::sleep(Duration::from_secs_f64(self.seconds)).await;
            shared.over.set(true);
        }
        let mut spent = self.calls.is_none().then(|| (start.elapsed(), cpu_seconds(&self.pids)));
        while let Some(caller) = callers.join_next().await {
            seen.add(caller.map_err(io::Error::other)?);
        }
        let (elapsed, cpu_after) = spent.take().unwrap_or_else(|| (start.elapsed(), cpu_seconds(&self.pids)));
        Ok(seen.report(elapsed, cpu_after? - cpu))
    }
}

impl Shared {
    fn new(run: Run) -> Self {
        let body = format!(r#"{{"amount":10,"padding":"{}"}}"#, "x".repeat(run.body_bytes.saturating_sub(26)));
        let (path, target) = (&run.path, run.target);
        let fixed = "content-type: application/json\r\nauthorization: Bearer bench\r\n";
        let head = format!("POST {path} HTTP/1.1\r\nhost: {target}\r\n{fixed}content-length: {}\r\n", body.len());
        Self { run, head, body, next: Cell::new(0), counting: Cell::new(false), over: Cell::new(false) }
    }

    /// The bytes of the next request, or nothing when enough were sent.
    fn request(&self, buffer: &mut Vec<u8>) -> bool {
        let n = self.next.get();
        if self.over.get() || self.run.calls.is_some_and(|calls| n >= calls) {
            return false;
        }
        self.next.set(n + 1);
        buffer.clear();
        buffer.extend_from_slice(self.head.as_bytes());
        let key = match self.run.keys.as_str() {
            "none" => None,
            "unique" => Some(n),
            count => count.parse::<u64>().ok().map(|count| n % count.max(1)),
        };
        if let Some(key) = key {
            buffer.extend_from_slice(format!("idempotency-key: {}-{key}\r\n", self.run.run).as_bytes());
        }
        buffer.extend_from_slice(b"\r\n");
        buffer.extend_from_slice(self.body.as_bytes());
        true
    }
}

async fn call_on(shared: Rc<Shared>, caller: usize) -> Seen {
    let mut seen = Seen::default();
    while !shared.over.get() {
        match connection(&shared, caller, &mut seen).await {
            Ok(()) => break,
            Err(error) => {
                seen.errors += 1;
                seen.last_error = Some(error.to_string());
                if seen.errors > 1000 {
                    break;
                }
            }
        }
    }
    seen
}

async fn connection(shared: &Shared, caller: usize, seen: &mut Seen) -> io::Result<()> {
    let mut socket = TcpStream::connect(shared.run.target).await?;
    socket.set_nodelay(true)?;
    let end = Finder::new(b"\r\n\r\n");
    let replayed = (shared.run.keys != "none").then(|| Finder::new(b"idempotent-replayed: true"));
    let (mut request, mut answer) = (Vec::new(), Vec::with_capacity(16 * 1024));
    let pace = shared.run.rate.map(|rate| Duration::from_secs_f64(shared.run.connections as f64 / rate));
    let mut due = Instant::now() + pace.unwrap_or_default().mul_f64(caller as f64 / shared.run.connections as f64);
    while shared.request(&mut request) {
        let mut start = Instant::now();
        if let Some(pace) = pace {
            // Behind schedule: the wait counts. Ahead of it: the timer's lateness (1 ms) is not the server's.
            if start < due {
                tokio::time::sleep_until(due.into()).await;
                start = Instant::now();
            } else {
                start = due;
            }
            due += pace;
        }
        socket.write_all(&request).await?;
        let status = read_answer(&mut socket, &mut answer, &end).await?;
        if shared.counting.get() && !shared.over.get() {
            seen.latencies_us.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
            *seen.statuses.entry(status).or_default() += 1;
            if let Some(replayed) = &replayed {
                seen.replayed += u64::from(replayed.find(&answer).is_some());
            }
        }
    }
    Ok(())
}

async fn read_answer(socket: &mut TcpStream, answer: &mut Vec<u8>, end: &Finder<'_>) -> io::Result<u16> {
    answer.clear();
    let mut whole = usize::MAX;
    while answer.len() < whole {
        if socket.read_buf(answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if whole == usize::MAX
            && let Some(head) = end.find(answer)
        {
            let length = content_length(&answer[..head + 4]);
            let length = length.ok_or_else(|| io::Error::other("an answer without content-length"))?;
            whole = head + 4 + length;
        }
    }
    let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    status.ok_or_else(|| io::Error::other("not an HTTP answer"))
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.latencies_us.extend(other.latencies_us);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.replayed += other.replayed;
        self.errors += other.errors;
        self.last_error = other.last_error.or(self.last_error.take());
    }

    fn report(mut self, elapsed: Duration, cpu_s: f64) -> serde_json::Value {
        self.latencies_us.sort_unstable();
        let calls = self.latencies_us.len();
        let at = |part: f64| self.latencies_us.get(((calls as f64 * part) as usize).min(calls.saturating_sub(1)));
        let statuses: BTreeMap<String, u64> = self.statuses.iter().map(|(s, n)| (s.to_string(), *n)).collect();
        json!({
            "calls": calls,
            "rate": calls as f64 / elapsed.as_secs_f64(),
            "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99), "max_us": self.latencies_us.last(),
            "cpu_s_per_100k": cpu_s * 100_000.0 / calls.max(1) as f64,
            "statuses": statuses, "replayed": self.replayed, "errors": self.errors, "last_error": self.last_error,
        })
    }
}
