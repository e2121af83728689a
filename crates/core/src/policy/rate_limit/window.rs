//! A sliding window: counts in slots, of which every one that reaches into the window counts whole.

use super::quota::{Meter, SKEW, Ticks};

/// Slots of a period.
const PER_PERIOD: u64 = 8;
/// The period's slots and the one under way: together they always span at least a period.
const SLOTS: u64 = PER_PERIOD + 1;

/// A window's limit and slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowRule {
    slot: Ticks,
    units: u32,
}

impl WindowRule {
    pub(super) fn new(period: Ticks, units: u32) -> Self {
        Self { slot: period.div_ceil(PER_PERIOD), units }
    }
}

/// Units taken, by slot.
///
/// Weighing the previous window's count by how much of it the sliding one still covers, as many limiters do, assumes an
/// even flow: what came in its last moment is let through almost twice. Here a slot counts until it is wholly outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// The latest slot, counted from the limiter's start.
    head: u64,
    total: u32,
    counts: [u32; SLOTS as usize],
}

impl Window {
    /// Moves to the slot of `at`. Time that runs backwards a little (threads come in any order) stays where it is; a
    /// clock that stepped back takes the counts with it, so that they are forgotten after a period and no later.
    fn advance(&mut self, rule: &WindowRule, at: Ticks) {
        let slot = at / rule.slot;
        if slot > self.head {
            for passed in self.head + 1..=slot.min(self.head + SLOTS) {
                self.total -= std::mem::take(&mut self.counts[(passed % SLOTS) as usize]);
            }
            self.head = slot;
        } else if self.head - slot > SLOTS + SKEW / rule.slot {
            self.counts = [0; SLOTS as usize];
            self.counts[(slot % SLOTS) as usize] = self.total;
            self.head = slot;
        }
    }

    /// Slots from the oldest on, with how long each still counts.
    fn oldest_first(&self, rule: &WindowRule, at: Ticks) -> impl Iterator<Item = (u32, Ticks)> {
        (self.head + 1..=self.head + SLOTS).map(move |slot| {
            // The slot that is to be reused as number `slot` counts until then.
            (self.counts[(slot % SLOTS) as usize], slot.saturating_mul(rule.slot).saturating_sub(at))
        })
    }
}

impl Meter for Window {
    type Rule = WindowRule;

    fn fresh() -> Self {
        Self { head: 0, total: 0, counts: [0; SLOTS as usize] }
    }

    fn peek(&mut self, rule: &WindowRule, at: Ticks, cost: u32) -> Result<(), Ticks> {
        self.advance(rule, at);
        let left = rule.units - self.total;
        let mut lacking = cost.min(rule.units).saturating_sub(left);
        if lacking == 0 {
            return Ok(());
        }
        let mut wait = 0;
        for (count, until) in self.oldest_first(rule, at) {
            if lacking == 0 {
                break;
            }
            lacking = lacking.saturating_sub(count);
            wait = until;
        }
        Err(wait)
    }

    fn take(&mut self, rule: &WindowRule, at: Ticks, cost: u32) {
        self.advance(rule, at);
        let cost = cost.min(rule.units - self.total);
        self.total += cost;
        self.counts[(self.head % SLOTS) as usize] += cost;
    }

    fn left(&mut self, rule: &WindowRule, at: Ticks) -> (u32, Ticks) {
        self.advance(rule, at);
        let next = self.oldest_first(rule, at).find(|(count, _)| *count > 0).map_or(0, |(_, until)| until);
        (rule.units - self.total, next)
    }

    fn idle_in(&self, rule: &WindowRule, at: Ticks) -> Ticks {
        let counted = self.oldest_first(rule, at).filter(|(count, _)| *count > 0);
        counted.last().map_or(0, |(_, until)| until.min(SLOTS * rule.slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 10 units in 80 ticks.
    const RULE: WindowRule = WindowRule { slot: 10, units: 10 };

    fn ask(window: &mut Window, at: Ticks, cost: u32) -> Result<(), Ticks> {
        window.peek(&RULE, at, cost)?;
        window.take(&RULE, at, cost);
        Ok(())
    }

    #[test]
    fn the_whole_limit_at_once_and_then_a_period() {
        let mut window = Window::fresh();
        assert_eq!(window.left(&RULE, 1_005), (10, 0));
        assert_eq!(ask(&mut window, 1_005, 4), Ok(()));
        assert_eq!(ask(&mut window, 1_012, 6), Ok(()));
        assert_eq!(window.left(&RULE, 1_012), (0, 78));
        assert_eq!(ask(&mut window, 1_012, 1), Err(78));
        assert_eq!(ask(&mut window, 1_012, 5), Err(88), "four come back, then six");
        assert_eq!(ask(&mut window, 1_089, 1), Err(1));
        assert_eq!(ask(&mut window, 1_090, 4), Ok(()));
        assert_eq!(window.left(&RULE, 1_099), (0, 1));
        assert_eq!(window.idle_in(&RULE, 1_099), 81);
        assert_eq!(window.left(&RULE, 9_999), (10, 0));
        assert_eq!(window.idle_in(&RULE, 9_999), 0);
    }

    #[test]
    fn not_twice_the_limit_at_the_edge() {
        let mut window = Window::fresh();
        assert_eq!(ask(&mut window, 79, 10), Ok(()));
        // A fixed window starts anew at 80, and a weighted one lets half through at 120.
        assert!(
            ask(&mut window, 80, 1).is_err() && ask(&mut window, 120, 1).is_err() && ask(&mut window, 158, 1).is_err()
        );
        assert_eq!(ask(&mut window, 160, 10), Ok(()));
    }

    #[test]
    fn a_cost_above_the_limit_takes_all_of_it() {
        let mut window = Window::fresh();
        assert_eq!(ask(&mut window, 0, 99), Ok(()));
        assert_eq!(ask(&mut window, 0, 99), Err(90));
    }

    #[test]
    fn a_clock_that_steps_back_costs_a_period_at_most() {
        let (mut window, late, early) = (Window::fresh(), 1_000 * SKEW, 100 * SKEW);
        ask(&mut window, late, 10).unwrap();
        assert!(window.idle_in(&RULE, early) <= 90);
        let wait = ask(&mut window, early, 1).unwrap_err();
        assert!(wait <= 90, "{wait}");
        assert_eq!(ask(&mut window, early + wait, 10), Ok(()));
        assert_eq!(ask(&mut window, 2 * late, 10), Ok(()), "and forth again");
    }

    proptest! {
        /// Never more than the limit in any interval of a period, and all of it again after nine eighths of one; also
        /// where times come out of order.
        #[test]
        fn never_more_than_the_limit(steps in proptest::collection::vec((0_u64..25, 0_u64..40, 1_u32..8), 1..200)) {
            let (mut window, mut read, mut now) = (Window::fresh(), 100, 0);
            let mut taken: Vec<(Ticks, u32)> = Vec::new();
            for (pause, late, cost) in steps {
                read += pause;
                // The latest time that anybody told counts.
                now = now.max(read - late);
                let found = ask(&mut window, read - late, cost);
                let recent = |span| -> u32 { taken.iter().filter(|(at, _)| at + span > now).map(|(_, cost)| cost).sum() };
                if found.is_ok() {
                    prop_assert!(recent(80) + cost <= 10);
                    taken.push((now, cost));
                } else {
                    prop_assert!(recent(90) + cost > 10, "refused without reason");
                }
            }
        }

        #[test]
        fn the_wait_is_enough(first in 0_u64..100, used in 1_u32..11, later in 0_u64..100, cost in 1_u32..11) {
            let mut window = Window::fresh();
            ask(&mut window, first, used).unwrap();
            if let Err(wait) = ask(&mut window, first + later, cost) {
                prop_assert!(ask(&mut window, first + later + wait - 1, cost).is_err());
                prop_assert!(ask(&mut window, first + later + wait, cost).is_ok());
            }
        }
    }
}
