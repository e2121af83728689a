//! One gateway, one flaky upstream, one oracle: what nearly every test of the real binary needs.

use crate::client::{Client, End, HangUp, Request};
use crate::clock::Stopwatch;
use crate::oracle::{History, OnUnknown, Oracle, Rules};
use crate::plan::FaultPlan;
use crate::process::{Gateway, Ports};
use crate::upstream::{Entry, ORACLE_KEY, Options, Upstream};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The payload of a call whose body does not matter.
pub const PAYLOAD: &str = r#"{"amount":10}"#;
/// How long a caller of a test waits for its answer: longer than anything the gateway may do.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Attempts that one call makes.
const ATTEMPTS: usize = 3;

/// What a rig is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The gateway's binary.
    pub binary: PathBuf,
    /// What the upstream does.
    pub plan: FaultPlan,
    /// What the gateway does with an unknown outcome; with `Retry` the upstream honours keys.
    pub on_unknown: OnUnknown,
    /// More of `idempotency = { … }`, each with a leading comma: `, join = "0s"`.
    pub idempotency: String,
    /// `principal` of the route: `none`, `credential`.
    pub principal: &'static str,
    /// The ledger's folder, where it shall not be beside the rest.
    pub ledger: Option<PathBuf>,
    /// `disk_reserve` of the ledger.
    pub disk_reserve: &'static str,
    /// `timeout = { … }` of the route.
    pub timeout: &'static str,
    /// Lines that choose another engine than the embedded one.
    pub engine: Option<String>,
}

impl Setup {
    /// A faultless upstream behind a route that holds unknown effects.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            plan: FaultPlan::faultless(),
            on_unknown: OnUnknown::Hold,
            idempotency: String::new(),
            principal: "none",
            ledger: None,
            disk_reserve: "1MiB",
            timeout: r#"{ total = "6s", attempt = "3s" }"#,
            engine: None,
        }
    }

    /// With this plan.
    #[must_use]
    pub fn plan(mut self, plan: FaultPlan) -> Self {
        self.plan = plan;
        self
    }

    /// With more of `idempotency = { … }`.
    #[must_use]
    pub fn idempotency(mut self, more: &str) -> Self {
        self.idempotency += more;
        self
    }

    /// The configuration for these addresses.
    #[must_use]
    pub fn config(&self, ports: Ports, ledger: &Path, upstream: &str) -> String {
        let Ports { http, admin } = ports;
        let on_unknown = match self.on_unknown {
            OnUnknown::Hold => r#"on_unknown = "hold""#,
            // A 402 after a lost attempt settles only where the route says that it is final.
            OnUnknown::Retry => r#"on_unknown = "retry", upstream_keep = "24h", final = [402]"#,
        };
        let Self { idempotency, principal, disk_reserve, timeout, .. } = self;
        let embedded = || {
            let path = ledger.display();
            format!(r#"ledger.embedded = {{ path = "{path}", disk_reserve = "{disk_reserve}" }}"#)
        };
        let ledger = self.engine.clone().unwrap_or_else(embedded);
        format!(
            r#"listen = {{ http = "{http}", admin = "{admin}" }}
{ledger}
log.format = "human"

[upstream.flaky]
urls = ["{upstream}"]

[[route]]
match = "POST /pay"
to = "flaky"
effect = "once"
scope = "pay"
timeout = {timeout}
retry = {{ attempts = {ATTEMPTS}, backoff = "5ms..40ms", budget = "100%" }}
idempotency = {{ {on_unknown}, principal = "{principal}", not_executed = [401, 403, 425, 429, 503]{idempotency} }}

[[route]]
match = "* /{{*rest}}"
to = "flaky"
effect = "forward"
"#
        )
    }
}

/// A running gateway before a running upstream, watched by an oracle.
#[derive(Debug)]
pub struct Rig {
    /// The gateway.
    pub gateway: Gateway,
    /// The upstream.
    pub upstream: Upstream,
    /// The oracle.
    pub oracle: Arc<Oracle>,
    folder: tempfile::TempDir,
}

impl Rig {
    /// Starts upstream and gateway.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start(setup: &Setup) -> io::Result<Self> {
        let mut rig = Self::prepare(setup).await?;
        tokio::task::block_in_place(|| rig.gateway.start())?;
        Ok(rig)
    }

    /// Starts the upstream and writes the gateway's configuration.
    ///
    /// # Errors
    /// When the upstream does not start.
    pub async fn prepare(setup: &Setup) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("semel-rig-").tempdir()?;
        let clock = Stopwatch::start();
        let honours_keys = setup.on_unknown == OnUnknown::Retry;
        let journal = folder.path().join("executions.jsonl");
        let upstream = Upstream::start(Options { plan: setup.plan.clone(), honours_keys, journal, clock }).await?;
        let ports = Ports::free()?;
        let ledger = setup.ledger.clone().unwrap_or_else(|| folder.path().join("ledger"));
        let config = setup.config(ports, &ledger, &upstream.url());
        let gateway = Gateway::new(&setup.binary, folder.path(), ports, &config)?;
        let rules = Rules { on_unknown: setup.on_unknown, attempts: ATTEMPTS };
        let oracle = Arc::new(Oracle::new(setup.plan.seed, rules, clock));
        Ok(Self { gateway, upstream, oracle, folder })
    }

    /// Another gateway before the same upstream, for engines that several share.
    ///
    /// # Errors
    /// When it does not start.
    pub fn another(&self, setup: &Setup, name: &str) -> io::Result<Gateway> {
        let mut gateway = self.prepare_another(setup, name)?;
        tokio::task::block_in_place(|| gateway.start())?;
        Ok(gateway)
    }

    /// Another gateway that is not started yet.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn prepare_another(&self, setup: &Setup, name: &str) -> io::Result<Gateway> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder)?;
        let ports = Ports::free()?;
        let config = setup.config(ports, &folder.join("ledger"), &self.upstream.url());
        Gateway::new(&setup.binary, &folder, ports, &config)
    }

    /// A folder for the test's own files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A caller with a connection of its own.
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.caller_of(&self.gateway)
    }

    /// A caller of another gateway.
    #[must_use]
    pub fn caller_of(&self, gateway: &Gateway) -> Caller {
        self.caller_at(&[gateway.http()])
    }

    /// A caller that goes to one of these gateways after another, as behind a load balancer: a retry reaches another.
    #[must_use]
    pub fn caller_at(&self, gateways: &[SocketAddr]) -> Caller {
        let clients = gateways.iter().copied().map(Client::new).collect();
        Caller { clients, turn: 0, oracle: Arc::clone(&self.oracle), headers: Vec::new() }
    }

    /// One call on a connection of its own.
    pub async fn call(&self, key: &str) -> End {
        self.caller().call(key, PAYLOAD, HangUp::Never).await
    }

    /// Kills the gateway and starts it again; the oracle knows.
    ///
    /// # Errors
    /// When it does not start again.
    pub fn crash(&mut self) -> io::Result<()> {
        let from_us = self.oracle.now_us();
        tokio::task::block_in_place(|| {
            self.gateway.kill()?;
            self.gateway.start()
        })?;
        self.oracle.was_down(from_us);
        Ok(())
    }

    /// The history so far.
    ///
    /// # Panics
    /// When the upstream's journal cannot be read.
    #[must_use]
    pub fn history(&self) -> History {
        self.oracle.history(self.upstream.journal().expect("the upstream's journal is readable"))
    }

    /// How often `key` was executed, by the upstream's journal.
    ///
    /// # Panics
    /// When the upstream's journal cannot be read.
    #[must_use]
    pub fn executions(&self, key: &str) -> usize {
        let journal = self.upstream.journal().expect("the upstream's journal is readable");
        journal.iter().filter(|entry| matches!(entry, Entry::Executed { key: k, .. } if k == key)).count()
    }

    /// How often `key` arrived at the upstream, by its journal.
    ///
    /// # Panics
    /// When the upstream's journal cannot be read.
    #[must_use]
    pub fn arrivals(&self, key: &str) -> usize {
        let journal = self.upstream.journal().expect("the upstream's journal is readable");
        journal.iter().filter(|entry| matches!(entry, Entry::Arrived { key: k, .. } if k == key)).count()
    }

    /// Waits until `key` has arrived `times` times at the upstream, at most [`PATIENCE`].
    ///
    /// # Panics
    /// When it does not.
    pub async fn arrived(&self, key: &str, times: usize) {
        let arrived = async {
            while self.arrivals(key) < times {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let within = tokio::time::timeout(PATIENCE, arrived).await;
        assert!(within.is_ok(), "{key} arrived {} times, not {times}", self.arrivals(key));
    }
}

/// A caller whose every call the oracle sees.
#[derive(Debug)]
pub struct Caller {
    clients: Vec<Client>,
    turn: usize,
    oracle: Arc<Oracle>,
    headers: Vec<(String, String)>,
}

impl Caller {
    /// With one more header on every call.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes one call.
    pub async fn call(&mut self, key: &str, payload: &str, hang_up: HangUp) -> End {
        let mut request = Request::post("/pay", payload).hanging_up(hang_up);
        request = request.header("idempotency-key", key).header(ORACLE_KEY, key);
        request.headers.extend(self.headers.iter().cloned());
        let sent_us = self.oracle.now_us();
        let turn = self.turn % self.clients.len();
        self.turn += 1;
        let end = self.clients[turn].call(&request, PATIENCE).await;
        self.oracle.ended(key, payload, sent_us, end.clone());
        end
    }
}
