//! When a caller that was refused is told to come back.

use std::time::Duration;

/// Seconds for a Retry-After, at least 1: no sooner than `wait`, and later by up to half of it again or
/// [`SPREAD_MIN`], so that callers that were refused together do not come back together ("Handling Overload" and
/// "Addressing Cascading Failures", Site Reliability Engineering, 2016, on retries that amplify each other).
///
/// `rand` is in `0.0..1.0`; what is outside is clamped.
#[must_use]
pub fn pushback_seconds(wait: Duration, rand: f64) -> u32 {
    let spread = (wait / 2).max(SPREAD_MIN).as_secs_f64() * rand.clamp(0.0, 1.0);
    // A float that is no u32 is clamped by `as`; NaN, which clamps to itself, becomes 0.
    ((wait.as_secs_f64() + spread).ceil() as u32).max(1)
}

/// The least over which callers are spread: Retry-After speaks whole seconds, so over less they all read the same.
pub const SPREAD_MIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn at_least_a_second_and_not_all_the_same() {
        let seconds = |wait_ms, rand| pushback_seconds(Duration::from_millis(wait_ms), rand);
        assert_eq!((seconds(0, 0.0), seconds(0, f64::NAN)), (1, 1));
        assert_eq!((seconds(10, 0.3), seconds(10, 0.7)), (1, 2));
        assert_eq!((seconds(60_000, 0.0), seconds(60_000, 0.5), seconds(60_000, 1.0)), (60, 75, 90));
        assert_eq!(pushback_seconds(Duration::MAX, 1.0), u32::MAX);
    }

    proptest! {
        #[test]
        fn never_too_soon(wait_ms in 0_u64..1 << 32, rand: f64) {
            let wait = Duration::from_millis(wait_ms);
            prop_assert!(Duration::from_secs(pushback_seconds(wait, rand).into()) >= wait);
        }
    }
}
