//! The gateway in this process, over real sockets, between a caller and an upstream that both speak by hand.

mod http;
mod ledger;
mod names;
mod upstream;

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use semel_config::Config;
use semel_core::effect::{Owner, Record};
use semel_gateway::serving::Serving;
use semel_ledger::Ledger;
use semel_tower::{CallResult, Effects, Observe, Report};

pub(crate) use http::{Call, Caller, Message, post};
pub(crate) use ledger::{Fate, Hold, Op, TestLedger};
pub(crate) use names::Names;
pub(crate) use upstream::{Arrival, Upstream, Wire};

/// Nothing in these tests takes that long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What effects of the tests live by, unless a test says otherwise: everybody is one caller, waits are short.
pub(crate) const PLAIN: &str = r#"principal = "none""#;

/// A gateway at work; stopped when dropped.
pub(crate) struct Gateway {
    serving: Option<Serving>,
    pub(crate) ledger: Arc<TestLedger>,
    pub(crate) effects: Effects,
    pub(crate) results: Arc<Results>,
}

impl Gateway {
    /// `POST /pay` happens once, under these values of `idempotency`.
    pub(crate) fn once(upstream: &Upstream, idempotency: &str) -> Self {
        Self::route(upstream, &format!("idempotency = {{ {idempotency} }}"))
    }

    /// `POST /pay` happens once, under these values of the route.
    pub(crate) fn route(upstream: &Upstream, values: &str) -> Self {
        Self::of(upstream.address, &route("POST /pay", "once", values))
    }

    /// These routes to one upstream.
    pub(crate) fn of(upstream: SocketAddr, routes: &str) -> Self {
        Self::over(TestLedger::new(), &config(upstream, routes))
    }

    /// These routes to upstreams that are equal, with these values of the upstream.
    pub(crate) fn before(upstreams: &[&Upstream], values: &str, routes: &str) -> Self {
        let urls: Vec<_> = upstreams.iter().map(|upstream| format!("\"http://{}\"", upstream.address)).collect();
        let toml = config(upstreams[0].address, routes);
        let (head, tail) = toml.split_once("urls = [").unwrap();
        let (_, tail) = tail.split_once(']').unwrap();
        Self::over(TestLedger::new(), &format!("{head}urls = [{}]\n{values}{tail}", urls.join(", ")))
    }

    /// This file, on this ledger.
    pub(crate) fn over(ledger: Arc<TestLedger>, toml: &str) -> Self {
        Self::knowing(Names::default(), ledger, toml)
    }

    /// This file, on this ledger, where names lead to what is said.
    pub(crate) fn knowing(names: Names, ledger: Arc<TestLedger>, toml: &str) -> Self {
        let owner = Owner(1);
        let effects = Effects::new(Arc::clone(&ledger) as Arc<dyn Ledger>, owner);
        let results = Arc::new(Results::default());
        let observer = Arc::clone(&results);
        let observers = Arc::new(move |_: &semel_config::Route| Arc::clone(&observer) as Arc<dyn Observe>);
        let serving = Serving::start_with(load(toml), effects.clone(), observers, Arc::new(names)).unwrap();
        Self { serving: Some(serving), ledger, effects, results }
    }

    pub(crate) fn serving(&self) -> &Serving {
        self.serving.as_ref().expect("the gateway was stopped")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.serving().address()
    }

    /// Sends a request on a connection of its own.
    pub(crate) fn send(&self, call: &Call) -> Caller {
        Caller::send(self.address(), call)
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn call(&self, call: &Call) -> Message {
        self.send(call).answer()
    }

    /// Drains and waits.
    pub(crate) fn stop(&mut self) -> bool {
        self.serving.take().is_none_or(Serving::stop)
    }

    /// Waits until no effect is in flight, whether or not its caller still waits.
    pub(crate) fn quiet(&self) {
        eventually("quiet", || self.effects.in_flight() == 0);
    }

    /// Whether this stands among the metrics.
    pub(crate) fn counts(&self, line: &str) -> bool {
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Arc::clone(self.serving().metrics())));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.contains(line)
    }

    /// Open and unknown effects.
    pub(crate) fn live(&self) -> Vec<Record> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.ledger.live(None, 100)).unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What became of the calls, as operators are told.
#[derive(Default)]
pub(crate) struct Results(Mutex<Vec<(CallResult, u32)>>);

impl Results {
    /// Each call's result and attempts, in order.
    pub(crate) fn all(&self) -> Vec<(CallResult, u32)> {
        self.0.lock().unwrap().clone()
    }
}

impl Observe for Results {
    fn concluded(&self, report: &Report<'_>) {
        self.0.lock().unwrap().push((report.result, report.attempts));
    }
}

/// A file with one upstream `up` and these routes.
pub(crate) fn config(upstream: SocketAddr, routes: &str) -> String {
    format!(
        "listen = {{ http = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
         limits = {{ drain_timeout = \"10s\" }}\n\
         {}\n[upstream.up]\nurls = [\"http://{upstream}\"]\n{}",
        // What is said before the first table belongs to the file.
        routes.split_once("[[route]]").map_or("", |(file, _)| file),
        routes.split_once("[[route]]").map_or(String::new(), |(_, routes)| format!("[[route]]{routes}")),
    )
}

/// One route to `up`.
pub(crate) fn route(pattern: &str, effect: &str, values: &str) -> String {
    format!("[[route]]\nmatch = \"{pattern}\"\nto = \"up\"\neffect = \"{effect}\"\n{values}\n")
}

pub(crate) fn load(toml: &str) -> Arc<Config> {
    let loaded = semel_config::load("test.toml", toml);
    let (config, _) = loaded.unwrap_or_else(|report| panic!("{toml}\n{report:?}"));
    Arc::new(config)
}

/// Holds an upstream until the test opens it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let shut = self.0.0.lock().unwrap();
        let _ = self.0.1.wait_timeout_while(shut, PATIENCE, |open| !*open).unwrap();
    }
}

/// Waits until `condition` holds, by looking again and again; fails after [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = semel_gateway::clock::now() + PATIENCE;
    while !condition() {
        assert!(semel_gateway::clock::now() < end, "{what} did not happen");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}
