//! The store's clock, with the memory of how late it has ever been.

use semel_core::time::Timestamp;
use semel_ledger::Clock;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How far the clock runs before its high-water mark is written again.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// A clock that knows the latest time this ledger has ever seen. Behind it, nothing is swept: records must not vanish
/// early because a wall clock was set back and forth.
pub(crate) struct GuardedClock {
    clock: Arc<dyn Clock>,
    high_water_ms: AtomicU64,
}

impl GuardedClock {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, high_water_ms: AtomicU64::new(0) }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The time for sweeping, while it can be trusted.
    pub(crate) fn sweep_now(&self) -> Option<Timestamp> {
        let now = self.clock.now();
        let behind = now.as_millis() < self.high_water_ms.load(Ordering::Relaxed);
        (!behind && self.clock.is_trusted()).then_some(now)
    }

    /// What the ledger remembers from before.
    pub(crate) fn remember(&self, high_water: Timestamp) {
        self.high_water_ms.fetch_max(high_water.as_millis(), Ordering::Relaxed);
    }

    /// The time to write down as the new high-water mark, if one is due at `now`.
    pub(crate) fn note(&self, now: Timestamp) -> Option<Timestamp> {
        let noted = Timestamp::from_millis(self.high_water_ms.load(Ordering::Relaxed));
        (now >= noted.plus(NOTE_EVERY) && self.clock.is_trusted()).then(|| {
            self.remember(now);
            now
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use semel_ledger::ManualClock;

    #[test]
    fn behind_its_high_water_mark_it_sweeps_nothing() {
        let hand = ManualClock::at(Timestamp::from_millis(1_000_000));
        let clock = GuardedClock::new(Arc::new(hand.clone()));
        assert_eq!(clock.sweep_now(), Some(clock.now()));
        clock.remember(Timestamp::from_millis(1_500_000));
        assert_eq!(clock.sweep_now(), None);
        hand.advance(Duration::from_millis(500_000));
        assert_eq!(clock.sweep_now(), Some(Timestamp::from_millis(1_500_000)));
        assert_eq!(clock.note(clock.now()), None, "it was noted just now");
        hand.advance(NOTE_EVERY);
        assert_eq!(clock.note(clock.now()), Some(clock.now()));
        assert_eq!(clock.note(clock.now()), None);
    }
}
