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

/// How waits are spread, so that callers that failed together do not come back together.
///
/// With `bound = min(base * 2^i, cap)` before repeat `i`. Full, equal and decorrelated jitter are compared in
/// "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): full jitter does least work in total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Jitter {
    /// Anything up to the bound: `rand * bound`. The default.
    #[default]
    Full,
    /// At least half of the bound: `bound/2 + rand * bound/2`. For upstreams that must get a pause.
    Equal,
    /// From the base to three times the wait before, up to the cap: it grows by its own past, not by `i`.
    Decorrelated,
    /// The bound and up to a base more: `min(bound + rand * base, cap)`, as Google Cloud's clients wait.
    Additive,
    /// Exactly the bound. With `base` = `cap` a constant wait. Callers stay in step: for one caller alone.
    Fixed,
}

/// Exponential backoff with jitter; by default `rand(0,1) * min(base * 2^i, cap)`.
///
/// The defaults are those of the AWS SDKs' standard mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first wait. Default: 50 ms.
    pub base: Duration,
    /// Upper bound of the first wait after throttling. Default: 1 s; never below `base`.
    pub base_throttled: Duration,
    /// Upper bound of every wait. Default: 20 s.
    pub cap: Duration,
    /// How waits are spread. Default: full.
    pub jitter: Jitter,
}

impl Backoff {
    /// The wait before repeat `i` (0 for the first repeat), `before` being the wait that this function gave for the
    /// repeat before (zero for the first). `rand` is in `0.0..1.0`; what is outside is clamped.
    #[must_use]
    pub fn wait(&self, i: u32, cause: RetryCause, before: Duration, rand: f64) -> Duration {
        let base = match cause {
            RetryCause::Transient => self.base,
            RetryCause::Throttling => self.base_throttled.max(self.base),
        };
        // 2^31 times a nanosecond is 2 s and times a second is decades: larger exponents change nothing.
        let bound = base.saturating_mul(1 << i.min(31)).min(self.cap);
        // NaN would stay NaN: it counts as the longest wait.
        let rand = if rand.is_nan() { 1.0 } else { rand.clamp(0.0, 1.0) };
        let share =
            |whole: Duration| Duration::try_from_secs_f64(whole.as_secs_f64() * rand).unwrap_or(whole).min(whole);
        let wait = match self.jitter {
            Jitter::Full => share(bound),
            Jitter::Equal => (bound / 2).saturating_add(share(bound / 2)),
            Jitter::Decorrelated => {
                let above = before.max(base).saturating_mul(3).min(self.cap).saturating_sub(base);
                base.saturating_add(share(above))
            }
            Jitter::Additive => bound.saturating_add(share(base)),
            Jitter::Fixed => bound,
        };
        wait.min(self.cap)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(50),
            base_throttled: Duration::from_secs(1),
            cap: Duration::from_secs(20),
            jitter: Jitter::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [Jitter; 5] = [Jitter::Full, Jitter::Equal, Jitter::Decorrelated, Jitter::Additive, Jitter::Fixed];

    fn with(jitter: Jitter) -> Backoff {
        Backoff { jitter, ..Backoff::default() }
    }

    /// Waits before the first repeats, in milliseconds, of a caller that always draws `rand`.
    fn waits(jitter: Jitter, cause: RetryCause, rand: f64, count: u32) -> Vec<u128> {
        let mut before = Duration::ZERO;
        let next = |i| {
            before = with(jitter).wait(i, cause, before, rand);
            before.as_millis()
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn bounds_double_up_to_the_cap() {
        let transient = waits(Jitter::Full, RetryCause::Transient, 1.0, 11);
        assert_eq!(transient, [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 20_000, 20_000]);
        assert_eq!(waits(Jitter::Full, RetryCause::Throttling, 1.0, 2), [1_000, 2_000]);
        let late = Backoff::default().wait(u32::MAX, RetryCause::Throttling, Duration::ZERO, 1.0);
        assert_eq!(late.as_millis(), 20_000);
    }

    #[test]
    fn kinds_of_jitter() {
        let low = |jitter| waits(jitter, RetryCause::Transient, 0.0, 4);
        let high = |jitter| waits(jitter, RetryCause::Transient, 1.0, 4);
        assert_eq!((low(Jitter::Full), high(Jitter::Full)), (vec![0; 4], vec![50, 100, 200, 400]));
        assert_eq!((low(Jitter::Equal), high(Jitter::Equal)), (vec![25, 50, 100, 200], vec![50, 100, 200, 400]));
        assert_eq!(low(Jitter::Decorrelated), [50; 4], "never below the base");
        assert_eq!(high(Jitter::Decorrelated), [150, 450, 1_350, 4_050], "three times the wait before");
        assert_eq!(low(Jitter::Additive), [50, 100, 200, 400]);
        assert_eq!(high(Jitter::Additive), [100, 150, 250, 450]);
        assert_eq!((low(Jitter::Fixed), high(Jitter::Fixed)), (vec![50, 100, 200, 400], vec![50, 100, 200, 400]));
    }

    proptest! {
        #[test]
        fn a_wait_is_never_above_its_bound(
            i: u32,
            rand: f64,
            before_ms: u64,
            base_ms in 0_u64..100_000,
            cap_ms in 0_u64..100_000,
            kind in 0..5_usize,
        ) {
            let (base, cap) = (Duration::from_millis(base_ms), Duration::from_millis(cap_ms));
            let backoff = Backoff { base, base_throttled: base, cap, jitter: KINDS[kind] };
            let before = Duration::from_millis(before_ms);
            prop_assert!(backoff.wait(i, RetryCause::Transient, before, rand) <= cap);
        }

        #[test]
        fn jitter_is_full(rand in 0.0..1.0_f64) {
            let wait = Backoff::default().wait(3, RetryCause::Transient, Duration::ZERO, rand).as_secs_f64();
            prop_assert!((wait - 0.4 * rand).abs() < 1e-6);
        }
    }
}
