//! The one clock of a test's history.

use std::time::{Duration, Instant};

/// Microseconds since it was started. Copies tell the same time, so that the entries of client, oracle and upstream
/// can be put in one order.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts at zero.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since the start.
    #[must_use]
    pub fn micros(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// Polls `condition` until it holds, at most for `bound`; returns whether it did. For conditions of other processes,
/// which nothing announces.
pub fn wait_until(bound: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let give_up = Instant::now() + bound;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > give_up {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
