//! The store's clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use semel_core::time::Timestamp;

/// Where a store takes its time from.
pub trait Clock: Send + Sync + 'static {
    /// The time now; never less than what it was before in this process.
    fn now(&self) -> Timestamp;

    /// Whether the time can be trusted to throw records away. Leases still run while it cannot.
    fn is_trusted(&self) -> bool;
}

/// Wall time at start plus monotonic time since: steps of the wall clock do not move leases.
#[derive(Debug)]
pub struct SystemClock {
    start_wall: Duration,
    start: Instant,
}

impl SystemClock {
    /// How far wall and monotonic time may drift apart before nothing is thrown away any more.
    pub const TRUSTED_DRIFT: Duration = Duration::from_secs(3600);

    /// A clock that starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock that others take as an argument")]
    pub fn start() -> Self {
        Self { start_wall: wall(), start: Instant::now() }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock that others take as an argument")]
    fn steady(&self) -> Duration {
        self.start_wall + Instant::now().saturating_duration_since(self.start)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::EPOCH.plus(self.steady())
    }

    fn is_trusted(&self) -> bool {
        self.steady().abs_diff(wall()) <= Self::TRUSTED_DRIFT
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock that others take as an argument")]
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A clock that stands still until it is moved: for tests and simulation.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(AtomicU64::new(now.as_millis())))
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }

    fn is_trusted(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_starts_at_wall_time_and_is_trusted() {
        let clock = SystemClock::start();
        let (first, second) = (clock.now(), clock.now());
        assert!(second >= first);
        assert!(wall().abs_diff(Duration::from_millis(first.as_millis())) < Duration::from_secs(60));
        assert!(clock.is_trusted());
    }

    #[test]
    fn a_wall_clock_an_hour_off_is_not_trusted() {
        let mut clock = SystemClock::start();
        clock.start_wall += SystemClock::TRUSTED_DRIFT + Duration::from_secs(60);
        assert!(!clock.is_trusted());
    }
}
