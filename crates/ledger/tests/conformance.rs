//! The model passes the suite that it is the measure of.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use semel_core::time::Timestamp;
use semel_ledger::{Ledger, ManualClock, conformance::Harness, model::ModelLedger};

struct InMemory {
    clock: ManualClock,
    ledger: Arc<ModelLedger>,
}

impl InMemory {
    fn new() -> Self {
        let clock = ManualClock::at(Timestamp::from_millis(1_800_000_000_000));
        let ledger = Arc::new(ModelLedger::with(Arc::new(clock.clone()), [7; 32]));
        Self { clock, ledger }
    }
}

impl Harness for InMemory {
    fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::clone(&self.ledger) as Arc<dyn Ledger>
    }

    fn other(&self) -> Arc<dyn Ledger> {
        self.ledger()
    }

    fn advance(&self, by: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.clock.advance(by);
        Box::pin(async {})
    }

    fn crash(&mut self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async { false })
    }
}

semel_ledger::conformance_suite!(InMemory::new());
