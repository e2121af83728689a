//! How many retries all callers together may make, so that a failing upstream is not buried under them.

use super::backoff::RetryCause;
use super::window::{Counts, Tick, Window};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A budget that all calls to one upstream share. Retries and hedges draw on it.
#[derive(Debug)]
pub enum RetryBudget {
    /// A share of recent requests.
    Window(WindowBudget),
    /// A bucket of tokens that successes refill.
    Quota(QuotaBudget),
}

impl RetryBudget {
    /// Counts a call, once, before its first attempt.
    pub fn record_call(&self, now: Instant) {
        if let Self::Window(budget) = self {
            budget.record_call(now);
        }
    }

    /// Counts a call like [`record_call`](Self::record_call), reading the clock only for one call in 64: those before
    /// count from then on, or from the next retry: at most 63 calls are taken for younger than they are. For callers who
    /// have no other use for the time.
    pub fn record_call_unclocked(&self, clock: impl FnOnce() -> Instant) {
        if let Self::Window(budget) = self {
            budget.record_call_unclocked(clock);
        }
    }

    /// Counts a call that succeeded at its first attempt.
    pub fn record_first_success(&self) {
        if let Self::Quota(budget) = self {
            budget.record_first_success();
        }
    }

    /// Takes one retry out of the budget. False where there is none left: then the call fails now.
    #[must_use]
    pub fn try_reserve(&self, now: Instant, cause: RetryCause) -> bool {
        match self {
            Self::Window(budget) => budget.try_reserve(now),
            Self::Quota(budget) => budget.try_reserve(cause),
        }
    }

    /// Retries that may still be made now, and how many could be if none had been: for those who watch.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> (u64, u64) {
        match self {
            Self::Window(budget) => budget.remaining(now),
            Self::Quota(budget) => budget.remaining(),
        }
    }
}

/// How long a [`WindowBudget`] looks back.
pub const WINDOW: Duration = Duration::from_secs(10);

/// A share of the requests of the last ten seconds, or a small constant rate in quiet times.
///
/// Finagle's RetryBudget (20 %, 10 s, 10/s), counted in ten one-second slots. Finagle adds the constant rate to the share,
/// which makes a load of 1.25 times at 200 requests a second; here it is a minimum: whatever is more, from 50 a second
/// on the share. Counted when a retry is *planned*, so that retries waiting out their backoff are in it. Lock-free,
/// without allocation.
#[derive(Debug)]
pub struct WindowBudget {
    /// Thousandths of a retry that one request earns.
    per_mille: u64,
    /// Retries per window that need no request.
    reserve: u64,
    /// Requests, and retries as marks.
    window: Window,
    /// Requests that are not yet in the window.
    unclocked: AtomicU32,
}

/// Requests that may stand outside the window.
const UNCLOCKED_MAX: u32 = 64;

impl WindowBudget {
    /// Retries a second that need no request.
    pub const RETRIES_PER_SECOND_MIN: u32 = 10;
    /// Share of requests that may be retried.
    pub const RATIO: f64 = 0.2;

    /// A budget of `ratio` (0.2 = one retry for five requests; kept between 0 and 10), but no less than `per_second`
    /// retries.
    #[must_use]
    pub fn new(start: Instant, ratio: f64, per_second: u32) -> Self {
        let per_mille = (ratio.clamp(0.0, 10.0) * 1_000.0).round() as u64;
        let reserve = u64::from(per_second) * WINDOW.as_secs();
        Self { per_mille, reserve, window: Window::new(start, WINDOW), unclocked: AtomicU32::new(0) }
    }

    /// Counts a call.
    pub fn record_call(&self, now: Instant) {
        self.window.add(self.window.tick(now), Counts::CALL);
    }

    /// Counts a call whose time is not known: see [`RetryBudget::record_call_unclocked`].
    pub fn record_call_unclocked(&self, clock: impl FnOnce() -> Instant) {
        if self.unclocked.fetch_add(1, Ordering::Relaxed) + 1 >= UNCLOCKED_MAX {
            self.clock_in(self.window.tick(clock()));
        }
    }

    fn clock_in(&self, tick: Tick) {
        if self.unclocked.load(Ordering::Relaxed) > 0 {
            let calls = u64::from(self.unclocked.swap(0, Ordering::Relaxed));
            self.window.add(tick, Counts { calls, marked: 0 });
        }
    }

    /// Takes one retry.
    #[must_use]
    pub fn try_reserve(&self, now: Instant) -> bool {
        let tick = self.window.tick(now);
        self.clock_in(tick);
        let others = self.window.others(tick);
        // The sum of the current slot is checked in the same exchange that takes the retry: of two callers that both
        // see the last one, one gets it.
        let take = |current: Counts| {
            let sum = others + current;
            (sum.marked < self.allowed(sum)).then_some(current + Counts::MARK)
        };
        self.window.update(tick, take).is_some()
    }

    /// Retries that may still be made now, and how many the window allows in all: for those who watch.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> (u64, u64) {
        let tick = self.window.tick(now);
        self.clock_in(tick);
        let sum = self.window.total(tick);
        let allowed = self.allowed(sum);
        (allowed.saturating_sub(sum.marked), allowed)
    }

    const fn allowed(&self, sum: Counts) -> u64 {
        let share = sum.calls * self.per_mille / 1_000;
        if share > self.reserve { share } else { self.reserve }
    }
}

/// The AWS SDKs' retry quota: 500 tokens, 14 for a retry, 5 after throttling, one back for each first-try success.
#[derive(Debug)]
pub struct QuotaBudget {
    tokens: AtomicU32,
}

impl QuotaBudget {
    /// Tokens of a full bucket.
    pub const TOKENS_MAX: u32 = 500;
    /// Tokens of a retry after a transient fault.
    pub const COST_TRANSIENT: u32 = 14;
    /// Tokens of a retry after throttling: cheaper, because the upstream is alive and said when.
    pub const COST_THROTTLING: u32 = 5;

    /// A full bucket.
    #[must_use]
    pub const fn full() -> Self {
        Self { tokens: AtomicU32::new(Self::TOKENS_MAX) }
    }

    /// Puts one token back.
    pub fn record_first_success(&self) {
        let more = |tokens| (tokens < Self::TOKENS_MAX).then_some(tokens + 1);
        let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Retries that may still be made after transient faults, and how many of a full bucket: for those who watch.
    #[must_use]
    pub fn remaining(&self) -> (u64, u64) {
        let tokens = self.tokens.load(Ordering::Relaxed);
        (u64::from(tokens / Self::COST_TRANSIENT), u64::from(Self::TOKENS_MAX / Self::COST_TRANSIENT))
    }

    /// Takes a retry's tokens.
    #[must_use]
    pub fn try_reserve(&self, cause: RetryCause) -> bool {
        let cost = match cause {
            RetryCause::Transient => Self::COST_TRANSIENT,
            RetryCause::Throttling => Self::COST_THROTTLING,
        };
        let less = |tokens: u32| tokens.checked_sub(cost);
        self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

impl Default for QuotaBudget {
    fn default() -> Self {
        Self::full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::clock::some_instant;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn drain(budget: &WindowBudget, now: Instant) -> usize {
        std::iter::from_fn(|| budget.try_reserve(now).then_some(())).take(100_000).count()
    }

    #[test]
    fn a_share_of_the_window_and_a_minimum() {
        let start = some_instant();
        let budget = WindowBudget::new(start, WindowBudget::RATIO, WindowBudget::RETRIES_PER_SECOND_MIN);
        assert_eq!(drain(&budget, start), 100, "quiet times: ten a second for ten seconds");
        (0..1_000).for_each(|_| budget.record_call(start + Duration::from_secs(3)));
        assert_eq!(drain(&budget, start + Duration::from_secs(5)), 100, "two hundred in all");
        assert_eq!(drain(&budget, start + Duration::from_secs(9)), 0);
        // The first hundred leave the window; then the requests do, then the others.
        assert_eq!(drain(&budget, start + Duration::from_secs(10)), 100);
        assert_eq!(drain(&budget, start + Duration::from_secs(14)), 0);
        assert_eq!(drain(&budget, start + Duration::from_secs(20)), 100);
    }

    #[test]
    fn nothing_overflows() {
        let start = some_instant();
        let budget = WindowBudget::new(start, f64::INFINITY, u32::MAX);
        let later = start + Duration::from_secs(1 << 25);
        (0..10).for_each(|_| budget.record_call(later));
        assert!(budget.try_reserve(later));
        // A clock that steps back behind the start counts as the start.
        assert!(WindowBudget::new(later, 0.0, 1).try_reserve(start));
    }

    #[test]
    fn calls_without_a_time_count_too() {
        let start = some_instant();
        let budget = WindowBudget::new(start, 0.2, 0);
        let read = AtomicU32::new(0);
        for _ in 0..1_000 {
            budget.record_call_unclocked(|| {
                read.fetch_add(1, Ordering::Relaxed);
                start
            });
        }
        assert_eq!(read.into_inner(), 1_000 / 64);
        assert_eq!(budget.remaining(start), (200, 200));
        assert_eq!(drain(&budget, start), 200, "the last forty, too");
    }

    #[test]
    fn retries_in_backoff_are_in_the_budget() {
        // The known trap: a budget that counts retries when they are sent is blind to those that wait, and grants
        // each of a thousand calls that failed together its retry.
        let start = some_instant();
        let budget = WindowBudget::new(start, 0.2, 0);
        (0..1_000).for_each(|_| budget.record_call(start));
        let planned = (0..1_000).filter(|_| budget.try_reserve(start)).count();
        assert_eq!(planned, 200);
        assert_eq!(budget.remaining(start), (0, 200));
    }

    #[test]
    fn a_clock_that_steps_back_grants_one_window_more_and_no_flood() {
        let start = some_instant();
        let budget = WindowBudget::new(start, 0.2, 1);
        let late = start + Duration::from_secs(3_600);
        assert_eq!(drain(&budget, late), 10);
        assert_eq!(drain(&budget, start + Duration::from_secs(60)), 10);
        assert_eq!(drain(&budget, start + Duration::from_secs(60)), 0);
    }

    #[test]
    fn the_last_retry_goes_to_one_caller() {
        let start = some_instant();
        let budget = WindowBudget::new(start, 0.0, 10);
        let taken = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mine = (0..100).filter(|_| budget.try_reserve(start)).count();
                    taken.fetch_add(u32::try_from(mine).unwrap(), Ordering::Relaxed);
                });
            }
        });
        assert_eq!(taken.into_inner(), 100);
    }

    #[test]
    fn quota_of_the_aws_sdks() {
        let budget = QuotaBudget::full();
        let transient = std::iter::from_fn(|| budget.try_reserve(RetryCause::Transient).then_some(())).count();
        assert_eq!(transient, 35, "500 / 14");
        assert!(budget.try_reserve(RetryCause::Throttling) && budget.try_reserve(RetryCause::Throttling));
        assert!(!budget.try_reserve(RetryCause::Throttling));
        (0..5).for_each(|_| budget.record_first_success());
        assert!(budget.try_reserve(RetryCause::Throttling));
        (0..1_000).for_each(|_| budget.record_first_success());
        assert_eq!(budget.tokens.into_inner(), 500);
    }

    proptest! {
        /// Against a list of all events: never more than the share and the minimum, in any ten seconds.
        #[test]
        fn agrees_with_a_list(steps in proptest::collection::vec((0_u64..4, any::<bool>()), 0..300)) {
            let start = some_instant();
            let budget = WindowBudget::new(start, 0.5, 1);
            let (mut second, mut requests, mut retries) = (0, VecDeque::new(), VecDeque::new());
            for (pause, is_call) in steps {
                second += pause / 2;
                let now = start + Duration::from_secs(second);
                for events in [&mut requests, &mut retries] {
                    while events.front().is_some_and(|at| at + 10 <= second) {
                        events.pop_front();
                    }
                }
                if is_call {
                    budget.record_call(now);
                    requests.push_back(second);
                } else {
                    let expected = retries.len() < (requests.len() / 2).max(10);
                    prop_assert_eq!(budget.try_reserve(now), expected);
                    if expected {
                        retries.push_back(second);
                    }
                }
            }
        }

        /// Load on an upstream that fails everything stays at 1.2 times: the minimum is in it.
        #[test]
        fn load_stays_bounded(failing in 0_u32..=100) {
            let start = some_instant();
            let budget = WindowBudget::new(start, WindowBudget::RATIO, WindowBudget::RETRIES_PER_SECOND_MIN);
            let (mut sent, mut calls) = (0_u32, 0_u32);
            for call in 0..5_000_u32 {
                let now = start + Duration::from_millis(u64::from(call) * 5);
                budget.record_call(now);
                calls += 1;
                sent += 1;
                for attempt in 1..3 {
                    if (call * 7 + attempt * 13) % 100 < failing && budget.try_reserve(now) {
                        sent += 1;
                    }
                }
            }
            prop_assert!(f64::from(sent) <= 1.2 * f64::from(calls));
        }
    }
}
