//! A ledger on servers of its own, seen by two gateways, on a clock that a test moves.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use semel_ledger::Ledger;
use semel_ledger::conformance::Harness;
use semel_ledger_nats::{NatsLedger, Options, TimeShift, migrate};
use semel_testkit::nats::{Servers, unavailable};
use semel_testkit::skipped;

pub(crate) struct Nats {
    pub(crate) servers: Servers,
    pub(crate) shift: TimeShift,
    pub(crate) first: Option<Arc<NatsLedger>>,
    pub(crate) second: Option<Arc<NatsLedger>>,
}

impl Nats {
    /// So many servers. None, and said so, where no server can be started.
    pub(crate) async fn new(servers: usize) -> Option<Self> {
        if let Some(why) = unavailable() {
            skipped(&why);
            return None;
        }
        let servers = Servers::start(servers).expect("NATS starts");
        migrate(&options(&servers)).await.expect("the stream is made");
        let mut harness = Self { servers, shift: TimeShift::default(), first: None, second: None };
        harness.open().await;
        Some(harness)
    }

    async fn open(&mut self) {
        for gateway in [&mut self.first, &mut self.second] {
            let opened = NatsLedger::open_shifted(&options(&self.servers), self.shift.clone()).await;
            *gateway = Some(Arc::new(opened.expect("the ledger opens")));
        }
    }
}

/// How many servers the suite runs on.
pub(crate) fn servers() -> usize {
    std::env::var("SEMEL_NATS_SERVERS").ok().and_then(|servers| servers.parse().ok()).unwrap_or(1)
}

pub(crate) fn options(servers: &Servers) -> Options {
    let mut options = Options::new(servers.url());
    options.system_url = Some(servers.system_url());
    options.replicas = servers.count();
    // On a busy machine an election may take more than one round.
    options.patience = Duration::from_secs(30);
    options
}

impl Harness for Nats {
    fn ledger(&self) -> Arc<dyn Ledger> {
        self.first.clone().expect("it is open")
    }

    fn other(&self) -> Arc<dyn Ledger> {
        self.second.clone().expect("it is open")
    }

    fn advance(&self, by: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.shift.advance(by);
        Box::pin(async {})
    }

    /// The gateways and all servers, all at once.
    fn crash(&mut self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async {
            (self.first, self.second) = (None, None);
            self.servers.kill_all().expect("the servers die");
            self.servers.restart().expect("the servers start again");
            self.open().await;
            true
        })
    }
}
