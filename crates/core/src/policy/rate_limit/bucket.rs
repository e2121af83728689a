//! A token bucket as one number: the generic cell rate algorithm.

use super::quota::{Meter, SKEW, Ticks};

/// A bucket's emission interval and size.
#[derive(Clone, Copy, Debug)]
pub(super) struct BucketRule {
    /// In which one unit comes back.
    interval: Ticks,
    /// One by that: a multiplication costs a tenth of a division.
    per_interval: f64,
    burst: u32,
    /// In which all of them do.
    refill: Ticks,
}

impl BucketRule {
    pub(super) fn new(interval: Ticks, burst: u32) -> Self {
        Self { interval, per_interval: 1.0 / interval as f64, burst, refill: interval.saturating_mul(u64::from(burst)) }
    }

    /// How many units `missing` is, the begun one whole, and how long until the next one is back.
    fn units(&self, missing: Ticks) -> (u64, Ticks) {
        if missing == 0 {
            return (0, 0);
        }
        // The product may be off by one, either way, and is cut off.
        let mut units = ((missing as f64 * self.per_interval) as u64).saturating_sub(1);
        while units * self.interval < missing {
            units += 1;
        }
        (units, missing - (units - 1) * self.interval)
    }

    fn cost(&self, units: u32) -> Ticks {
        self.interval * u64::from(units.min(self.burst))
    }
}

/// When the bucket will be full again: the *theoretical arrival time* of the next cell, in the ATM Forum's words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    full_at: Ticks,
}

impl Bucket {
    /// What is missing from a full bucket.
    ///
    /// More than all of it only where `at` is older than what was there before: a thread that was held up after it read
    /// the clock, or a clock that stepped back. Nobody waits for such a clock to come back: the bucket is empty and
    /// refills from here.
    fn missing(&mut self, rule: &BucketRule, at: Ticks) -> Ticks {
        if self.full_at.saturating_sub(at) > rule.refill.saturating_add(SKEW) {
            self.full_at = at.saturating_add(rule.refill);
        }
        self.full_at.saturating_sub(at)
    }
}

impl Meter for Bucket {
    type Rule = BucketRule;

    fn fresh() -> Self {
        Self { full_at: 0 }
    }

    fn peek(&mut self, rule: &BucketRule, at: Ticks, cost: u32) -> Result<(), Ticks> {
        let missing = self.missing(rule, at).saturating_add(rule.cost(cost));
        if missing > rule.refill { Err(missing - rule.refill) } else { Ok(()) }
    }

    fn take(&mut self, rule: &BucketRule, at: Ticks, cost: u32) {
        self.full_at = self.full_at.max(at).saturating_add(rule.cost(cost));
    }

    fn left(&mut self, rule: &BucketRule, at: Ticks) -> (u32, Ticks) {
        let (units, next) = rule.units(self.missing(rule, at));
        (rule.burst - u32::try_from(units).unwrap_or(rule.burst).min(rule.burst), next)
    }

    fn idle_in(&self, rule: &BucketRule, at: Ticks) -> Ticks {
        self.full_at.saturating_sub(at).min(rule.refill)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 10 units in 100 ticks, 5 at once.
    const RULE: BucketRule = BucketRule { interval: 10, per_interval: 0.1, burst: 5, refill: 50 };

    fn ask(bucket: &mut Bucket, at: Ticks, cost: u32) -> Result<(), Ticks> {
        bucket.peek(&RULE, at, cost)?;
        bucket.take(&RULE, at, cost);
        Ok(())
    }

    #[test]
    fn a_burst_and_then_evenly() {
        let mut bucket = Bucket::fresh();
        assert_eq!(bucket.left(&RULE, 1_000), (5, 0));
        for left in (0..5).rev() {
            assert_eq!(ask(&mut bucket, 1_000, 1), Ok(()));
            assert_eq!(bucket.left(&RULE, 1_000), (left, 10));
        }
        assert_eq!(ask(&mut bucket, 1_000, 1), Err(10));
        assert_eq!(ask(&mut bucket, 1_003, 1), Err(7));
        assert_eq!(ask(&mut bucket, 1_003, 2), Err(17));
        assert_eq!(ask(&mut bucket, 1_010, 1), Ok(()));
        assert_eq!(ask(&mut bucket, 1_010, 1), Err(10));
        assert_eq!(bucket.idle_in(&RULE, 1_010), 50);
        assert_eq!(bucket.idle_in(&RULE, 1_060), 0);
        assert_eq!(bucket.left(&RULE, 1_055), (4, 5));
    }

    #[test]
    fn a_cost_above_the_burst_takes_all_of_it() {
        let mut bucket = Bucket::fresh();
        assert_eq!(ask(&mut bucket, 0, 99), Ok(()));
        assert_eq!(ask(&mut bucket, 0, 99), Err(50));
        assert_eq!(ask(&mut bucket, 50, 99), Ok(()));
    }

    #[test]
    fn a_clock_that_steps_back_costs_a_burst_at_most() {
        let (mut bucket, late, early) = (Bucket::fresh(), 1_000 * SKEW, SKEW);
        ask(&mut bucket, late, 1).unwrap();
        assert_eq!(bucket.idle_in(&RULE, early), 50);
        assert_eq!(ask(&mut bucket, early, 1), Err(10), "empty, not refused until the clock comes back");
        assert_eq!(ask(&mut bucket, early + 9, 1), Err(1));
        assert_eq!(ask(&mut bucket, early + 10, 1), Ok(()));
        assert_eq!(ask(&mut bucket, 2 * late, 5), Ok(()), "and forth again");
    }

    #[test]
    fn a_thread_that_was_held_up_earns_nothing() {
        let mut bucket = Bucket::fresh();
        ask(&mut bucket, SKEW, 5).unwrap();
        assert_eq!(ask(&mut bucket, SKEW - 100, 1), Err(110));
        assert_eq!(ask(&mut bucket, SKEW, 1), Err(10));
    }

    proptest! {
        /// Never more than the burst and what has come back since, in any interval.
        #[test]
        fn never_more_than_the_rate(steps in proptest::collection::vec((0_u64..30, 1_u32..4), 1..200)) {
            let (mut bucket, mut at) = (Bucket::fresh(), 0);
            let mut taken: Vec<(Ticks, u64)> = Vec::new();
            for (pause, cost) in steps {
                at += pause;
                if ask(&mut bucket, at, cost).is_ok() {
                    taken.push((at, u64::from(cost)));
                }
                let mut units = 0;
                for (since, cost) in taken.iter().rev() {
                    units += cost;
                    prop_assert!(units * 10 <= 50 + (at - since));
                }
            }
        }

        /// The multiplication says what the division would.
        #[test]
        fn units_are_exact(interval in 1_u64..1 << 40, units in 0_u64..1 << 19, odd in -1_i64..2) {
            let rule = BucketRule::new(interval, u32::MAX);
            let missing = (interval * units).saturating_add_signed(odd);
            let (found, next) = rule.units(missing);
            prop_assert_eq!(found, missing.div_ceil(interval));
            prop_assert_eq!(next, missing - found.saturating_sub(1) * interval);
        }

        /// Who waits as long as told is served.
        #[test]
        fn the_wait_is_enough(first in 0_u64..100, used in 1_u32..6, cost in 1_u32..9) {
            let mut bucket = Bucket::fresh();
            ask(&mut bucket, first, used).unwrap();
            if let Err(wait) = ask(&mut bucket, first, cost) {
                prop_assert!(ask(&mut bucket, first + wait - 1, cost).is_err());
                prop_assert!(ask(&mut bucket, first + wait, cost).is_ok());
            }
        }
    }
}
