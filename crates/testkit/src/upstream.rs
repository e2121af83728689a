//! A flaky upstream: a real HTTP/1.1 server that executes effects, writes each down before it answers, and misbehaves by
//! plan.
//!
//! It lives in the test's process, so it survives every `kill -9` of the gateway. Its journal, one JSON line an event in
//! an append-only file, is the truth about what was executed: the oracle reads it, never the upstream's memory.

mod answer;
mod connection;

use crate::clock::Stopwatch;
use crate::plan::{Act, FaultPlan, Leaves};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use answer::{SLOW_BODY_PIECES, execution_of};

/// The request header that names the oracle's key, because the forwarded `Idempotency-Key` is a hash.
pub const ORACLE_KEY: &str = "x-oracle-key";

/// How an upstream is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// What it does with which arrival.
    pub plan: FaultPlan,
    /// Whether it honours a repeated forwarded key by giving the first execution's answer again.
    pub honours_keys: bool,
    /// Where it writes what it did; must not exist yet.
    pub journal: PathBuf,
    /// The history's clock.
    pub clock: Stopwatch,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Entry {
    /// A whole request came.
    Arrived {
        /// Microseconds on the history's clock.
        at_us: u64,
        /// The oracle's key.
        key: String,
        /// Which arrival of this key it is, from 0.
        arrival: u32,
        /// What is done with it.
        act: Act,
        /// The `Idempotency-Key` it came with.
        forwarded: Option<String>,
        /// Its `Semel-Attempt`.
        attempt: Option<String>,
        /// Its body.
        payload: String,
    },
    /// The effect happened.
    Executed {
        /// Microseconds on the history's clock.
        at_us: u64,
        /// The oracle's key.
        key: String,
        /// A number that no other execution of this upstream has.
        execution: u64,
        /// The request's body.
        payload: String,
    },
}

/// A running upstream; stops when dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    gate: watch::Sender<Gate>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    Refusing,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    healed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    journal: File,
    arrivals: HashMap<String, u32>,
    executions: u64,
    /// By forwarded key: the execution, and the act that made it.
    honoured: HashMap<String, (u64, Act)>,
}

impl Upstream {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// When the journal exists already or the socket cannot be bound.
    pub async fn start(options: Options) -> io::Result<Self> {
        let journal = File::options().create_new(true).append(true).open(&options.journal)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = State { journal, arrivals: HashMap::new(), executions: 0, honoured: HashMap::new() };
        let shared = Arc::new(Shared { options, healed: AtomicBool::new(false), state: Mutex::new(state) });
        let (gate, gate_seen) = watch::channel(Gate::Open);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, address, Arc::clone(&shared), gate_seen));
        Ok(Self { address, shared, gate, _tasks: tasks })
    }

    /// `http://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Refuses connections from now on, and closes those that are idle.
    pub fn refuse(&self) {
        self.gate.send_replace(Gate::Refusing);
    }

    /// Takes connections again, on the same port.
    pub fn accept(&self) {
        self.gate.send_replace(Gate::Open);
    }

    /// From now on every arrival is executed and answered.
    pub fn heal(&self) {
        self.shared.healed.store(true, Ordering::SeqCst);
    }

    /// Everything written down so far, read back from the file.
    ///
    /// # Errors
    /// When the file cannot be read, or a line of it is not an entry.
    pub fn journal(&self) -> io::Result<Vec<Entry>> {
        read_journal(&self.shared.options.journal)
    }
}

/// Reads an upstream's journal.
///
/// # Errors
/// When the file cannot be read, or a line of it is not an entry.
pub fn read_journal(path: &Path) -> io::Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::other)).collect()
}

async fn accept(first: TcpListener, address: SocketAddr, shared: Arc<Shared>, mut gate: watch::Receiver<Gate>) {
    let mut connections = JoinSet::new();
    let mut listener = Some(first);
    loop {
        if *gate.borrow_and_update() == Gate::Refusing {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).await.ok();
        }
        let Some(open) = &listener else {
            if gate.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = gate.changed() => if changed.is_err() { return },
            accepted = open.accept() => if let Ok((socket, _)) = accepted {
                connections.spawn(connection::serve(socket, Arc::clone(&shared), gate.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Shared {
    /// Writes an arrival down and says what is to be done with it, executing it when that is part of it.
    fn arrived(&self, key: &str, forwarded: Option<&str>, attempt: Option<&str>, payload: &str) -> io::Result<Todo> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let count = state.arrivals.entry(key.to_owned()).or_insert(0);
        let arrival = *count;
        *count += 1;
        let healed = self.healed.load(Ordering::SeqCst);
        let act = if healed { Act::Execute } else { self.options.plan.act(key, arrival) };
        state.write(&Entry::Arrived {
            at_us: self.options.clock.micros(),
            key: key.to_owned(),
            arrival,
            act,
            forwarded: forwarded.map(str::to_owned),
            attempt: attempt.map(str::to_owned),
            payload: payload.to_owned(),
        })?;
        let remembered = forwarded.filter(|_| self.options.honours_keys);
        if let Some((execution, first)) = remembered.and_then(|key| state.honoured.get(key)) {
            // A repeated key gets the first outcome again, but the way there may still be bad.
            let outcome = if matches!(first, Act::Decline | Act::MarkCommitted) { *first } else { Act::Execute };
            let act = if act.leaves() == Leaves::Executed { outcome } else { act };
            return Ok(Todo { act, execution: Some(*execution) });
        }
        if !act.executes() {
            return Ok(Todo { act, execution: None });
        }
        state.executions += 1;
        let execution = state.executions;
        state.write(&Entry::Executed {
            at_us: self.options.clock.micros(),
            key: key.to_owned(),
            execution,
            payload: payload.to_owned(),
        })?;
        if let Some(forwarded) = remembered {
            state.honoured.insert(forwarded.to_owned(), (execution, act));
        }
        Ok(Todo { act, execution: Some(execution) })
    }
}

impl State {
    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.journal.write_all(&line)
    }
}

/// What is to be done with an arrival that has been written down.
#[derive(Clone, Copy, Debug)]
struct Todo {
    act: Act,
    execution: Option<u64>,
}

#[cfg(test)]
mod tests;
