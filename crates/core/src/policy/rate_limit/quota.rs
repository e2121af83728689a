//! What a limit allows.

use super::bucket::BucketRule;
use super::window::WindowRule;
use std::time::Duration;

/// Time inside a limiter: sixteenths of a nanosecond since it was made. Fine enough that three million units a second
/// are not rounded by more than a ten-thousandth; 36 years until it stands still.
pub(super) type Ticks = u64;

/// Ticks of a nanosecond.
const TICKS_PER_NS: u64 = 16;

/// How much older than what was there before a time may be without meaning that the clock stepped back: a second.
/// Threads read the clock first and come to a limiter later, in any order.
pub(super) const SKEW: Ticks = 1_000_000_000 * TICKS_PER_NS;

/// The longest period, and the longest time in which a burst refills: a year.
const PERIOD_MAX: Duration = Duration::from_secs(366 * 86_400);

/// So many units in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    units: u32,
    period: Duration,
    shape: Shape,
}

/// How units come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A token bucket: one by one, evenly, up to `burst`. The generic cell rate algorithm (ATM Forum, Traffic
    /// Management Specification 4.0, 1996, section 4.4.2), which needs one number for each key.
    Bucket {
        /// Units that can be used at once after a rest.
        burst: u32,
    },
    /// A sliding window: in *no* interval of the period's length are there more than the units, so there is no edge at
    /// which twice as many fit. Units come back an eighth of the period late at most.
    Window,
}

/// A limit that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// Nothing would ever pass.
    #[error("a limit allows at least one unit, in a period and in a burst, and its period is longer than nothing")]
    Nothing,
    /// The period, or the time in which a burst refills, is longer than a year.
    #[error("a limit's period, and the time in which its burst refills, are at most a year")]
    TooLong,
    /// More units than nanoseconds.
    #[error("a limit allows at most one unit in a nanosecond")]
    TooFast,
    /// A name that is no string of a structured field.
    #[error("`{0}` cannot name a limit: use printable ASCII (RFC 9651 section 3.3.3)")]
    Name(String),
    /// Without a limit there is nothing to check.
    #[error("a limiter needs at least one limit")]
    NoLimit,
}

impl Quota {
    /// `units` in `period`, evenly, with a burst of `burst`.
    ///
    /// # Errors
    /// Where nothing would ever pass, or the time is out of range.
    pub fn bucket(units: u32, period: Duration, burst: u32) -> Result<Self, QuotaError> {
        Self::new(units, period, Shape::Bucket { burst })
    }

    /// `units` in every interval of `period`.
    ///
    /// # Errors
    /// Where nothing would ever pass, or the time is out of range.
    pub fn window(units: u32, period: Duration) -> Result<Self, QuotaError> {
        Self::new(units, period, Shape::Window)
    }

    fn new(units: u32, period: Duration, shape: Shape) -> Result<Self, QuotaError> {
        let burst = if let Shape::Bucket { burst } = shape { burst } else { 1 };
        if units == 0 || burst == 0 || period.is_zero() {
            return Err(QuotaError::Nothing);
        }
        let refill = (period / units).checked_mul(burst);
        if period > PERIOD_MAX || refill.is_none_or(|refill| refill > PERIOD_MAX) {
            return Err(QuotaError::TooLong);
        }
        // A window has eight slots, each of which is longer than nothing.
        if period.as_nanos() < u128::from(units.max(8)) {
            return Err(QuotaError::TooFast);
        }
        Ok(Self { units, period, shape })
    }

    /// Units in a period.
    #[must_use]
    pub const fn units(&self) -> u32 {
        self.units
    }

    /// The period.
    #[must_use]
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// How units come back.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    pub(super) fn rule(&self) -> Rule {
        let period = ticks(self.period);
        match self.shape {
            // Rounded up: a limit errs on the strict side.
            Shape::Bucket { burst } => Rule::Bucket(BucketRule::new(period.div_ceil(u64::from(self.units)), burst)),
            Shape::Window => Rule::Window(WindowRule::new(period, self.units)),
        }
    }

    /// `q` and `w` of `RateLimit-Policy`: units, and whole seconds. A period that is no whole number of seconds is
    /// scaled up to one that is, rounded down where that is no whole number of units.
    pub(super) fn units_and_seconds(&self) -> (u64, u64) {
        let seconds = self.period.as_secs() + u64::from(self.period.subsec_nanos() > 0);
        let scaled = u128::from(self.units) * Duration::from_secs(seconds).as_nanos() / self.period.as_nanos();
        (u64::try_from(scaled).unwrap_or(u64::MAX), seconds)
    }
}

/// A quota made ready for checking.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    Bucket(BucketRule),
    Window(WindowRule),
}

/// One key's use of one quota.
pub(super) trait Meter: Clone + Send {
    /// The quota.
    type Rule: Copy + Send + Sync;

    /// Of somebody who has not been here.
    fn fresh() -> Self;

    /// Whether `cost` units are left `at` this time; takes none. A cost above what can ever be left counts as all of it.
    ///
    /// # Errors
    /// How long until they are.
    fn peek(&mut self, rule: &Self::Rule, at: Ticks, cost: u32) -> Result<(), Ticks>;

    /// Takes units that [`peek`](Meter::peek) has just found.
    fn take(&mut self, rule: &Self::Rule, at: Ticks, cost: u32);

    /// Units that are left, and how long until there is one more; zero where all are there.
    fn left(&mut self, rule: &Self::Rule, at: Ticks) -> (u32, Ticks);

    /// How long until this is as good as fresh; zero where it is.
    fn idle_in(&self, rule: &Self::Rule, at: Ticks) -> Ticks;
}

/// A duration in ticks; the longest there is where it is longer.
pub(super) fn ticks(duration: Duration) -> Ticks {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000 * TICKS_PER_NS);
    seconds.saturating_add(u64::from(duration.subsec_nanos()) * TICKS_PER_NS)
}

/// Ticks as a duration, rounded up: who waits as long as this has waited long enough.
pub(super) fn duration(ticks: Ticks) -> Duration {
    Duration::from_nanos(ticks.div_ceil(TICKS_PER_NS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_cannot_be() {
        for nothing in [Quota::bucket(0, SECOND, 1), Quota::bucket(1, SECOND, 0), Quota::window(1, Duration::ZERO)] {
            assert_eq!(nothing, Err(QuotaError::Nothing));
        }
        let day = SECOND * 86_400;
        assert_eq!(Quota::window(1, day * 400), Err(QuotaError::TooLong));
        assert_eq!(Quota::bucket(1, day, 400), Err(QuotaError::TooLong));
        assert_eq!(Quota::window(1, Duration::from_nanos(7)), Err(QuotaError::TooFast));
        assert_eq!(Quota::bucket(u32::MAX, SECOND, u32::MAX), Err(QuotaError::TooFast));
        assert!(Quota::bucket(u32::MAX, SECOND * 5, u32::MAX).is_ok());
    }

    #[test]
    fn whole_seconds_for_the_wire() {
        let wire = |units, millis| Quota::window(units, Duration::from_millis(millis)).unwrap().units_and_seconds();
        assert_eq!(wire(100, 1_000), (100, 1));
        assert_eq!(wire(100, 100), (1_000, 1));
        assert_eq!(wire(100, 1_500), (133, 2));
    }

    proptest! {
        #[test]
        fn ticks_never_shorten_a_wait(ns in 0_u64..u64::MAX / 16) {
            let wait = Duration::from_nanos(ns);
            prop_assert_eq!(duration(ticks(wait)), wait);
            prop_assert!(ticks(Duration::MAX) == u64::MAX);
        }
    }
}
