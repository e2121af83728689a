//! A quantile of recent latencies in a few kilobytes.

use super::HedgePolicy;
use crate::policy::window::millis;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Latencies of the last window, in two halves of which the older is forgotten at a time. Lock-free, 1.3 KB.
///
/// Buckets are log-linear, eight to an octave (as in HdrHistogram), so that a quantile is at most an eighth too long;
/// below 0.5 ms they are 65 us wide. While a half is being forgotten, the odd answer of that moment may be lost.
#[derive(Debug)]
pub struct Latencies {
    start: Instant,
    half_ms: u64,
    /// The half-window that is being filled, counted from the start.
    current: AtomicU64,
    halves: [[AtomicU32; BUCKETS]; 2],
    /// The quantile that was last computed, in microseconds, and in the upper 24 bits when.
    cached: AtomicU64,
}

const UNIT_SHIFT: u32 = 16;
/// Up to 2^38 ns: four and a half minutes.
const BUCKETS: usize = 160;

/// A quantile is computed once in so long.
const FRESH_MS: u64 = 100;
const DELAY_BITS: u32 = 40;
const NO_DELAY: u64 = (1 << DELAY_BITS) - 1;

impl Latencies {
    /// Of the last `window`, or up to half of it less.
    #[must_use]
    pub fn new(start: Instant, window: Duration) -> Self {
        let half_ms = (u64::try_from(window.as_millis()).unwrap_or(u64::MAX) / 2).max(1);
        Self {
            start,
            half_ms,
            current: AtomicU64::new(0),
            halves: [const { [const { AtomicU32::new(0) }; BUCKETS] }; 2],
            cached: AtomicU64::new(u64::MAX),
        }
    }

    /// Counts a call that was answered.
    pub fn record(&self, latency: Duration, now: Instant) {
        let half = self.turn_to(now);
        self.halves[half][bucket(latency)].fetch_add(1, Ordering::Relaxed);
    }

    /// The latency that a share `quantile` of calls stays below; none where there are less than `samples_min`.
    #[must_use]
    pub fn quantile(&self, quantile: f64, samples_min: u32, now: Instant) -> Option<Duration> {
        self.turn_to(now);
        let count =
            |at: usize| -> u64 { self.halves.iter().map(|half| u64::from(half[at].load(Ordering::Relaxed))).sum() };
        let total: u64 = (0..BUCKETS).map(count).sum();
        if total == 0 || total < u64::from(samples_min) {
            return None;
        }
        // From the top: high quantiles are near.
        let above_max = (total as f64 * (1.0 - quantile.clamp(0.0, 1.0))) as u64;
        let mut above = 0;
        let at = (0..BUCKETS).rev().find(|at| {
            above += count(*at);
            above > above_max
        });
        Some(upper_bound(at.unwrap_or(0)))
    }

    /// After how long a call is hedged; none where too little is known. Computed ten times a second, else one load.
    pub(super) fn delay(&self, policy: &HedgePolicy, now: Instant) -> Option<Duration> {
        // From 1 on: what a new one holds is of another time.
        let time = millis(self.start, now) / FRESH_MS % ((1 << 24) - 1);
        let cached = self.cached.load(Ordering::Relaxed);
        let micros = if cached >> DELAY_BITS == time {
            cached & NO_DELAY
        } else {
            let quantile = self.quantile(policy.quantile, policy.samples_min, now);
            let micros = quantile.map_or(NO_DELAY, |delay| delay.as_micros() as u64);
            self.cached.store(time << DELAY_BITS | micros, Ordering::Relaxed);
            micros
        };
        (micros != NO_DELAY).then(|| Duration::from_micros(micros).max(policy.delay_min))
    }

    /// The half that is filled now; whoever comes first into a new one forgets what it held. A clock that stepped back
    /// begins a half too.
    fn turn_to(&self, now: Instant) -> usize {
        let half = millis(self.start, now) / self.half_ms;
        let known = self.current.load(Ordering::Relaxed);
        if half != known && self.current.compare_exchange(known, half, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let is_next = half == known + 1;
            for (at, buckets) in self.halves.iter().enumerate() {
                if !is_next || at as u64 == half % 2 {
                    buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
                }
            }
        }
        (half % 2) as usize
    }
}

fn bucket(latency: Duration) -> usize {
    let units = (u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX)) >> UNIT_SHIFT;
    if units < 8 {
        return units as usize;
    }
    let octave = units.ilog2() - 3;
    let eighth = (units >> octave) as usize & 7;
    (8 * (octave as usize + 1) + eighth).min(BUCKETS - 1)
}

/// The least latency that is above a bucket.
fn upper_bound(bucket: usize) -> Duration {
    let units = if bucket < 8 { bucket as u64 + 1 } else { (bucket as u64 % 8 + 9) << (bucket / 8 - 1) };
    Duration::from_nanos(units << UNIT_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::clock::some_instant;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn quantiles_of_a_thousand() {
        let now = some_instant();
        let latencies = Latencies::new(now, MS(60_000));
        (1..=1_000).for_each(|ms| latencies.record(MS(ms), now));
        for (quantile, ms) in [(0.5, 500.0), (0.9, 900.0), (0.95, 950.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let found = latencies.quantile(quantile, 1, now).unwrap().as_secs_f64() * 1_000.0;
            assert!((ms..=ms * 1.13).contains(&found), "{quantile}: {found}");
        }
        assert_eq!(latencies.quantile(0.5, 1_001, now), None);
    }

    #[test]
    fn the_past_is_forgotten() {
        let now = some_instant();
        let latencies = Latencies::new(now, MS(60_000));
        let slow = |at| latencies.quantile(0.5, 1, now + MS(at)).is_some_and(|found| found > MS(500));
        (0..100).for_each(|_| latencies.record(MS(900), now));
        assert!(slow(59_999));
        assert!(!slow(60_000));
        (0..100).for_each(|_| latencies.record(MS(900), now + MS(70_000)));
        assert!(slow(119_999));
        assert!(!slow(600_000), "after a long silence nothing is left of either half");
    }

    #[test]
    fn a_clock_that_steps_back_is_survived() {
        let now = some_instant();
        let latencies = Latencies::new(now, MS(60_000));
        let policy = HedgePolicy { samples_min: 1, ..HedgePolicy::default() };
        latencies.record(MS(900), now + MS(600_000));
        assert!(latencies.delay(&policy, now + MS(600_000)).is_some());
        latencies.record(MS(10), now);
        let delay = latencies.delay(&policy, now).unwrap();
        assert!(delay < MS(12), "{delay:?}");
    }

    proptest! {
        #[test]
        fn a_latency_is_below_its_bound_and_not_by_much(nanos in 0_u64..1 << 38) {
            let latency = Duration::from_nanos(nanos);
            let bound = upper_bound(bucket(latency));
            prop_assert!(latency < bound);
            prop_assert!(bound <= latency + latency / 8 + Duration::from_nanos(1 << UNIT_SHIFT));
        }

        #[test]
        fn no_latency_is_too_long(nanos: u64) {
            prop_assert!(bucket(Duration::from_nanos(nanos)) < BUCKETS);
            prop_assert!(bucket(Duration::MAX) == BUCKETS - 1);
        }
    }
}
