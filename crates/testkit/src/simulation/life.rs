//! Processes that die at any point, and the dice that say when.

use super::VirtualClock;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Numbers that look random and depend only on the seed and on how often they were asked for.
#[derive(Debug)]
pub struct Dice {
    seed: u64,
    thrown: Cell<u32>,
}

impl Dice {
    /// Dice of their own for each `purpose`, so that one part's throws do not move another's.
    #[must_use]
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self { seed: crate::plan::draw(seed, purpose, 0), thrown: Cell::new(0) }
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&self, bound: u64) -> u64 {
        let thrown = self.thrown.get();
        self.thrown.set(thrown.wrapping_add(1));
        crate::plan::draw(self.seed, "dice", thrown) % bound
    }

    /// A duration between zero and `most`, in microseconds.
    pub fn up_to(&self, most: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1)))
    }
}

/// One life of one process, from its start to its kill.
#[derive(Clone, Debug, Default)]
pub struct Life(Arc<Vital>);

#[derive(Debug, Default)]
struct Vital {
    over: AtomicBool,
    /// On the clock of whoever froze it, in microseconds.
    frozen_until_us: AtomicU64,
}

impl Life {
    /// Ends it: nothing of it takes another step.
    pub fn end(&self) {
        self.0.over.store(true, Ordering::SeqCst);
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.over.load(Ordering::SeqCst)
    }

    /// Stops it until `until_us` on `clock`, as SIGSTOP and SIGCONT do: its timers run on.
    pub fn freeze(&self, until_us: u64) {
        self.0.frozen_until_us.fetch_max(until_us, Ordering::SeqCst);
    }

    /// Every step of the process passes here: waits while it is frozen, and for ever once it is dead.
    pub async fn step(&self, clock: &VirtualClock) {
        loop {
            if self.is_over() {
                std::future::pending::<()>().await;
            }
            let left = self.0.frozen_until_us.load(Ordering::SeqCst).saturating_sub(clock.micros());
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_micros(left)).await;
        }
    }
}
