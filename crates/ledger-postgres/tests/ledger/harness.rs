//! A ledger on a server of its own, seen by two gateways, on a clock that is moved by hand.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use semel_ledger::Ledger;
use semel_ledger::conformance::Harness;
use semel_ledger_postgres::{Options, PostgresLedger, migrate};
use semel_testkit::postgres::{Server, unavailable};
use semel_testkit::skipped;

pub(crate) struct Postgres {
    pub(crate) server: Server,
    pub(crate) first: Option<Arc<PostgresLedger>>,
    pub(crate) second: Option<Arc<PostgresLedger>>,
}

/// Settings of a server for tests: durable as any.
pub(crate) const PLAIN: &str = "";

/// Stops the store's clock: it goes on only when a test says so.
pub(crate) const MANUAL_CLOCK: &str = "\
    CREATE TABLE semel.clock (ms bigint NOT NULL); INSERT INTO semel.clock SELECT semel.now_ms(); \
    CREATE OR REPLACE FUNCTION semel.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT ms FROM semel.clock'";

impl Postgres {
    /// None, and said so, where no server can be started.
    pub(crate) async fn new() -> Option<Self> {
        if let Some(why) = unavailable() {
            skipped(&why);
            return None;
        }
        let server = Server::start(PLAIN).expect("PostgreSQL starts");
        migrate(&options(&server)).await.expect("the schema is made");
        server.sql(MANUAL_CLOCK).expect("the clock is replaced");
        let mut harness = Self { server, first: None, second: None };
        harness.open().await;
        Some(harness)
    }

    async fn open(&mut self) {
        for gateway in [&mut self.first, &mut self.second] {
            *gateway = Some(Arc::new(PostgresLedger::open(&options(&self.server)).await.expect("the ledger opens")));
        }
    }
}

pub(crate) fn options(server: &Server) -> Options {
    let mut options = Options::new(server.url());
    options.connections = 2;
    options
}

impl Harness for Postgres {
    fn ledger(&self) -> Arc<dyn Ledger> {
        self.first.clone().expect("it is open")
    }

    fn other(&self) -> Arc<dyn Ledger> {
        self.second.clone().expect("it is open")
    }

    fn advance(&self, by: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let moved = self.server.sql(&format!("UPDATE semel.clock SET ms = ms + {}", by.as_millis()));
        moved.expect("the clock moves");
        Box::pin(async {})
    }

    /// The gateways and the server, all at once.
    fn crash(&mut self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async {
            (self.first, self.second) = (None, None);
            self.server.kill().expect("the server dies");
            self.server.restart().expect("the server starts again");
            self.open().await;
            true
        })
    }
}
