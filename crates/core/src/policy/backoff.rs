//! How long to wait before the next attempt.

use std::time::Duration;

/// Why an attempt is repeated, as far as waiting goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryCause {
    /// A fault that may be gone at once.
    Transient,
    /// The upstream asks for less load (429, or 503 with Retry-After).
    Throttling,
}

/// Exponential backoff with full jitter: `rand(0,1) * min(base * 2^i, cap)`.
///
/// Full jitter spreads callers that failed together over the whole wait, which does least work in total ("Exponential
/// Backoff And Jitter", AWS Architecture Blog, 2015). The defaults are those of the AWS SDKs' standard mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first wait. Default: 50 ms.
    pub base: Duration,
    /// Upper bound of the first wait after throttling. Default: 1 s; never below `base`.
    pub base_throttled: Duration,
    /// Upper bound of every wait. Default: 20 s.
    pub cap: Duration,
}

impl Backoff {
    /// The wait before repeat `i` (0 for the first repeat). `rand` is in `0.0..1.0`; what is outside is clamped.
    #[must_use]
    pub fn wait(&self, i: u32, cause: RetryCause, rand: f64) -> Duration {
        let base = match cause {
            RetryCause::Transient => self.base,
            RetryCause::Throttling => self.base_throttled.max(self.base),
        };
        // 2^31 times a nanosecond is 2 s and times a second is decades: larger exponents change nothing.
        let bound = base.saturating_mul(1 << i.min(31)).min(self.cap);
        // NaN clamps to NaN, and a NaN product is no duration.
        Duration::try_from_secs_f64(bound.as_secs_f64() * rand.clamp(0.0, 1.0)).unwrap_or(bound)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(50), base_throttled: Duration::from_secs(1), cap: Duration::from_secs(20) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_double_up_to_the_cap() {
        let bound = |i, cause| Backoff::default().wait(i, cause, 1.0).as_millis();
        let transient: Vec<_> = (0..11).map(|i| bound(i, RetryCause::Transient)).collect();
        assert_eq!(transient, [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 20_000, 20_000]);
        assert_eq!(bound(0, RetryCause::Throttling), 1_000);
        assert_eq!(bound(u32::MAX, RetryCause::Throttling), 20_000);
    }

    proptest! {
        #[test]
        fn a_wait_is_never_above_its_bound(i: u32, rand: f64, base_ms in 0_u64..100_000, cap_ms in 0_u64..100_000) {
            let (base, cap) = (Duration::from_millis(base_ms), Duration::from_millis(cap_ms));
            let backoff = Backoff { base, base_throttled: base, cap };
            prop_assert!(backoff.wait(i, RetryCause::Transient, rand) <= cap);
        }

        #[test]
        fn jitter_is_full(rand in 0.0..1.0_f64) {
            let wait = Backoff::default().wait(3, RetryCause::Transient, rand).as_secs_f64();
            prop_assert!((wait - 0.4 * rand).abs() < 1e-6);
        }
    }
}
