//! The simulated ledger passes the suite that every engine must pass, crashes included.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use semel_core::{effect::Owner, time::Timestamp};
use semel_ledger::{Ledger, ManualClock, conformance::Harness};
use semel_testkit::simulation::{LogLedger, Random};

struct OnALog {
    clock: ManualClock,
    ledger: Arc<LogLedger>,
}

impl OnALog {
    fn new() -> Self {
        let clock = ManualClock::at(Timestamp::from_millis(1_800_000_000_000));
        let flush_max = Duration::from_micros(200);
        let ledger = LogLedger::new(Arc::new(clock.clone()), [7; 32], flush_max, Random::new(7));
        Self { clock, ledger: Arc::new(ledger) }
    }
}

impl Harness for OnALog {
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
        self.ledger.crash();
        // The processes start again under other names.
        self.ledger.restart(Some(Owner(u64::MAX)));
        Box::pin(async { true })
    }
}

semel_ledger::conformance_suite!(OnALog::new());
