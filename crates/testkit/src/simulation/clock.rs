//! The store's clock in virtual time.

use std::time::Duration;

use semel_core::time::Timestamp;
use semel_ledger::Clock;
use tokio::time::Instant;

/// tokio's time as a store's clock: leases lapse and windows end as virtual time passes.
#[derive(Clone, Copy, Debug)]
pub struct VirtualClock {
    started: Instant,
    epoch: Timestamp,
}

impl VirtualClock {
    /// A clock that shows `epoch` now. Needs a tokio runtime.
    #[must_use]
    pub fn starting_at(epoch: Timestamp) -> Self {
        Self { started: Instant::now(), epoch }
    }

    /// The same clock, ahead by this much: another machine's.
    #[must_use]
    pub fn ahead_by(self, skew: Duration) -> Self {
        Self { epoch: self.epoch.plus(skew), ..self }
    }

    /// Microseconds since it was started: a history's time.
    #[must_use]
    pub fn micros(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.epoch.plus(self.started.elapsed())
    }

    fn is_trusted(&self) -> bool {
        true
    }
}
