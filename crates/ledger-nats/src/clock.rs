//! The store's clock: the leader's, as this process measures it.
//!
//! Every answer of the stream's leader to a question about the stream carries its clock. Half of the round trip is how
//! far the measurement may be off; between measurements this process's monotonic clock goes on. So the wall clock of a
//! gateway's machine does not matter at all, and gateways agree to a few milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use semel_core::time::Timestamp;
use semel_ledger::{Clock as _, SystemClock};

/// A measurement that took longer than this is used only while there is no better one.
const ROUND_TRIP_GOOD_MS: u64 = 20;
/// For how long a good measurement is better than any bad one.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// A clock that moves by this much between measurements has been set, or another server's is wrong.
const STEP_MAX_MS: u64 = 3_600_000;

/// Moves the store's clock forward: for tests of leases and windows that nobody can wait for.
#[derive(Clone, Debug, Default)]
pub struct TimeShift(Arc<AtomicU64>);

impl TimeShift {
    /// Moves it, for every ledger that was opened with this shift.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

pub(crate) struct StoreClock {
    local: SystemClock,
    shift: TimeShift,
    /// What the store's clock is ahead of the local one.
    offset_ms: AtomicI64,
    /// When a good measurement was made last, on the local clock; 0 before the first.
    measured_at_ms: AtomicU64,
    stepped: AtomicBool,
}

impl StoreClock {
    pub(crate) fn new(shift: TimeShift) -> Self {
        Self {
            local: SystemClock::start(),
            shift,
            offset_ms: AtomicI64::new(0),
            measured_at_ms: AtomicU64::new(0),
            stepped: AtomicBool::new(false),
        }
    }

    /// This process's clock, for waits and measurements.
    pub(crate) fn local(&self) -> Timestamp {
        self.local.now()
    }

    /// The store's clock, as far as this process knows it.
    pub(crate) fn now(&self) -> Timestamp {
        let local = i128::from(self.local().as_millis());
        let now = local + i128::from(self.offset_ms.load(Ordering::Relaxed));
        let shift = self.shift.0.load(Ordering::SeqCst);
        Timestamp::from_millis(u64::try_from(now).unwrap_or(0).saturating_add(shift))
    }

    /// The leader's clock showed `said` at some moment since `asked_at` of the local clock.
    pub(crate) fn heard(&self, said: Timestamp, asked_at: Timestamp) {
        let now = self.local();
        let round_trip_ms = now.as_millis().saturating_sub(asked_at.as_millis());
        let measured_at_ms = self.measured_at_ms.load(Ordering::Relaxed);
        let good = round_trip_ms <= ROUND_TRIP_GOOD_MS;
        if !good && measured_at_ms > 0 && now.since(Timestamp::from_millis(measured_at_ms)) < GOOD_FOR {
            return;
        }
        let middle = i128::from(asked_at.as_millis() + round_trip_ms / 2);
        let offset = i64::try_from(i128::from(said.as_millis()) - middle).unwrap_or(0);
        let before = self.offset_ms.load(Ordering::Relaxed);
        let stepped = measured_at_ms > 0 && offset.abs_diff(before) > STEP_MAX_MS;
        self.stepped.store(stepped, Ordering::Relaxed);
        if stepped {
            return;
        }
        self.offset_ms.store(offset, Ordering::Relaxed);
        if good || measured_at_ms == 0 {
            self.measured_at_ms.store(now.as_millis().max(1), Ordering::Relaxed);
        }
    }

    /// Whether the leader's clock is more than an hour away from where it was: what it would end is not to be believed,
    /// and neither is a key absent because its window is over.
    pub(crate) fn stepped(&self) -> bool {
        self.stepped.load(Ordering::Relaxed)
    }
}

/// A time as JetStream writes it (RFC 3339, UTC, nanoseconds).
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    let at = humantime::parse_rfc3339(text).ok()?;
    Some(Timestamp::EPOCH.plus(at.duration_since(std::time::UNIX_EPOCH).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off(clock: &StoreClock, by_ms: i64) -> u64 {
        let expected = i64::try_from(clock.local().as_millis()).unwrap() + by_ms;
        clock.now().as_millis().abs_diff(u64::try_from(expected).unwrap())
    }

    #[test]
    fn it_follows_the_leader_and_not_the_machine() {
        let shift = TimeShift::default();
        let clock = StoreClock::new(shift.clone());
        let asked_at = clock.local();
        clock.heard(asked_at.plus(Duration::from_secs(86_400 * 365)), asked_at);
        assert!(off(&clock, 86_400_000 * 365) < 1000, "the first measurement may be any");
        shift.advance(Duration::from_secs(5));
        assert!(off(&clock, 86_400_000 * 365 + 5000) < 1000);
    }

    #[test]
    fn a_step_of_more_than_an_hour_is_not_followed() {
        let clock = StoreClock::new(TimeShift::default());
        clock.heard(clock.local(), clock.local());
        clock.heard(clock.local().plus(Duration::from_secs(3700)), clock.local());
        assert!(clock.stepped());
        assert!(off(&clock, 0) < 1000);
        clock.heard(clock.local().plus(Duration::from_millis(300)), clock.local());
        assert!(!clock.stepped());
        assert!(off(&clock, 300) < 100);
    }

    #[test]
    fn a_slow_answer_does_not_replace_a_good_one() {
        let clock = StoreClock::new(TimeShift::default());
        clock.heard(clock.local(), clock.local());
        let long_ago = Timestamp::from_millis(clock.local().as_millis() - 5000);
        clock.heard(clock.local().plus(Duration::from_secs(9)), long_ago);
        assert!(off(&clock, 0) < 1000);
    }

    #[test]
    fn times_are_read() {
        assert_eq!(parse_time("1970-01-01T00:00:01.5Z"), Some(Timestamp::from_millis(1500)));
        assert_eq!(parse_time("2026-11-21T16:33:07.06168026Z").map(|t| t.as_millis() % 1000), Some(61));
        assert_eq!(parse_time("yesterday"), None);
    }
}
