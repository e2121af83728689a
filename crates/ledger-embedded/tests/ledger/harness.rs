//! A ledger in a temporary folder, on a clock that is moved by hand.

use semel_core::{effect::Owner, time::Timestamp};
use semel_ledger::{Ledger, ManualClock, conformance::Harness};
use semel_ledger_embedded::{EmbeddedLedger, Options};
use std::{future::Future, path::PathBuf, pin::Pin, process::Command, sync::Arc, time::Duration};
use tempfile::TempDir;

pub(crate) struct Embedded {
    pub(crate) folder: TempDir,
    life: u64,
    pub(crate) clock: ManualClock,
    pub(crate) ledger: Arc<EmbeddedLedger>,
}

impl Embedded {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
        let ledger = open(folder.path().join("1"), 1, &clock);
        Self { folder, life: 1, clock, ledger }
    }

    /// What a process that is killed leaves: the files as they are. Opened by a new owner.
    pub(crate) fn crash_now(&mut self) {
        self.life += 1;
        let (from, to) = (self.ledger.dir().to_owned(), self.folder.path().join(self.life.to_string()));
        assert!(Command::new("cp").arg("-a").args([&from, &to]).status().unwrap().success());
        self.ledger = open(to, self.life, &self.clock);
    }
}

fn open(dir: PathBuf, owner: u64, clock: &ManualClock) -> Arc<EmbeddedLedger> {
    let mut options = Options::new(dir);
    options.disk_reserve_bytes = 0;
    Arc::new(EmbeddedLedger::open_with_clock(options, Owner(owner), Arc::new(clock.clone())).unwrap())
}

impl Harness for Embedded {
    fn ledger(&self) -> Arc<dyn Ledger> {
        self.ledger.clone()
    }

    fn other(&self) -> Arc<dyn Ledger> {
        self.ledger.clone()
    }

    fn advance(&self, by: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.clock.advance(by);
        Box::pin(async {})
    }

    fn crash(&mut self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        self.crash_now();
        Box::pin(async { true })
    }
}
