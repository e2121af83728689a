//! A second attempt beside a slow first one.

mod latencies;

pub use latencies::Latencies;

use super::backoff::RetryCause;
use super::budget::RetryBudget;
use super::response_class::ResponseClass;
use super::retry::{Pushback, Repeatable};
use std::time::{Duration, Instant};

/// When a call is hedged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgePolicy {
    /// The quantile of latency after which the extra attempt is sent: this share of calls is never hedged. Default: 0.95,
    /// the choice of "The Tail at Scale" (Dean and Barroso, CACM 2013).
    pub quantile: f64,
    /// Calls in the window below which their quantile says nothing, and nothing is hedged. Default: 100.
    pub samples_min: u32,
    /// How far back latencies count. Default: 60 s.
    pub window: Duration,
    /// The least wait before the extra attempt: below it hedging costs more than it saves. Default: 1 ms.
    pub delay_min: Duration,
}

impl Default for HedgePolicy {
    fn default() -> Self {
        Self { quantile: 0.95, samples_min: 100, window: Duration::from_secs(60), delay_min: Duration::from_millis(1) }
    }
}

/// The hedge of one call: one extra attempt at most.
///
/// It is sent when the first has taken longer than most, or has failed; to another endpoint; out of the retry budget;
/// and only where a repeat is [`Repeatable::Always`] safe. Only a success ends the call while the other attempt is
/// under way, which is then to be cancelled. (gRFC A6, "Hedging Policy".)
#[derive(Clone, Copy, Debug)]
pub struct Hedge {
    begun: Instant,
    /// None: it is not hedged, or it was.
    fires_at: Option<Instant>,
    first: First,
    is_extra_out: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Out,
    Succeeded,
    Failed,
}

/// Which of the two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leg {
    /// The one that every call makes.
    First,
    /// The hedge.
    Extra,
}

/// What to do when an attempt of a hedged call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeStep {
    /// Its end is the call's; the other attempt, if there is one, is to be cancelled.
    Finish,
    /// It failed, and the extra attempt is to be sent at once.
    Fire,
    /// It failed, and the other attempt is still under way.
    Wait,
}

impl Hedge {
    /// The first attempt of a call begins.
    #[must_use]
    pub fn begin(policy: &HedgePolicy, latencies: &Latencies, repeatable: Repeatable, now: Instant) -> Self {
        let delay = match repeatable {
            Repeatable::Always => latencies.delay(policy, now),
            Repeatable::IfNotExecuted => None,
        };
        let fires_at = delay.and_then(|delay| now.checked_add(delay));
        Self { begun: now, fires_at, first: First::Out, is_extra_out: false }
    }

    /// When the extra attempt is due, if it still may come.
    #[must_use]
    pub const fn fires_at(&self) -> Option<Instant> {
        self.fires_at
    }

    /// That moment has come: whether the extra attempt is to be sent. If not, it never is.
    pub fn fire(&mut self, budget: &RetryBudget, now: Instant) -> bool {
        let may = self.fires_at.take().is_some() && budget.try_reserve(now, RetryCause::Transient);
        self.is_extra_out = may;
        may
    }

    /// The extra attempt was not sent after all.
    pub const fn withdraw(&mut self) {
        self.is_extra_out = false;
    }

    /// An attempt has ended.
    ///
    /// A refusal, and a failure that asks for time, are the call's end if no other attempt is under way: to wait as long
    /// as it takes is a retry's business.
    pub fn ended(
        &mut self,
        leg: Leg,
        class: ResponseClass,
        pushback: Pushback,
        budget: &RetryBudget,
        now: Instant,
    ) -> HedgeStep {
        let is_success = class == ResponseClass::Success;
        let is_other_out = match leg {
            Leg::First => {
                self.first = if is_success { First::Succeeded } else { First::Failed };
                self.is_extra_out
            }
            Leg::Extra => {
                self.is_extra_out = false;
                self.first == First::Out
            }
        };
        if is_success {
            return HedgeStep::Finish;
        }
        if is_other_out {
            return HedgeStep::Wait;
        }
        let is_transient = class == ResponseClass::Failure && pushback == Pushback::Unsaid;
        if is_transient && self.fire(budget, now) { HedgeStep::Fire } else { HedgeStep::Finish }
    }

    /// How long the first attempt took, for the quantile, once the call has its answer; none if it failed.
    ///
    /// One that lost against its hedge took at least this long. It is counted as that, not left out: otherwise the slow
    /// calls would vanish from the quantile, which would sink, and more and more calls would be hedged.
    #[must_use]
    pub fn sample(&self, now: Instant) -> Option<Duration> {
        (self.first != First::Failed).then(|| now.saturating_duration_since(self.begun))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::budget::WindowBudget;
    use crate::policy::clock::some_instant;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const POLICY: fn() -> HedgePolicy = HedgePolicy::default;

    struct Calls {
        latencies: Latencies,
        budget: RetryBudget,
        now: Instant,
    }

    fn calls(budget_per_second: u32) -> Calls {
        let now = some_instant();
        let latencies = Latencies::new(now, POLICY().window);
        (1..=1_000).for_each(|ms| latencies.record(MS(ms), now));
        let budget = RetryBudget::Window(WindowBudget::new(now, 0.0, budget_per_second));
        Calls { latencies, budget, now }
    }

    impl Calls {
        fn begin(&self) -> Hedge {
            Hedge::begin(&POLICY(), &self.latencies, Repeatable::Always, self.now)
        }

        fn ended(&self, hedge: &mut Hedge, leg: Leg, class: ResponseClass) -> HedgeStep {
            hedge.ended(leg, class, Pushback::Unsaid, &self.budget, self.now)
        }
    }

    #[test]
    fn fires_at_the_quantile() {
        let calls = calls(1);
        let delay = calls.begin().fires_at().unwrap() - calls.now;
        assert!((MS(950)..MS(1_080)).contains(&delay), "{delay:?}");
        let unsafe_call = Hedge::begin(&POLICY(), &calls.latencies, Repeatable::IfNotExecuted, calls.now);
        assert_eq!(unsafe_call.fires_at(), None, "a POST is not sent twice");
    }

    #[test]
    fn without_enough_samples_it_does_not() {
        let mut calls = calls(1);
        calls.latencies = Latencies::new(calls.now, POLICY().window);
        (0..99).for_each(|_| calls.latencies.record(MS(5), calls.now));
        let mut hedge = calls.begin();
        assert_eq!(hedge.fires_at(), None);
        assert_eq!(calls.ended(&mut hedge, Leg::First, ResponseClass::Failure), HedgeStep::Finish);
        calls.latencies.record(MS(5), calls.now + MS(200));
        calls.now += MS(200);
        assert!(calls.begin().fires_at().is_some());
    }

    #[test]
    fn only_a_success_wins() {
        let calls = calls(9);
        for (loser, winner) in [(Leg::First, Leg::Extra), (Leg::Extra, Leg::First)] {
            let mut hedge = calls.begin();
            assert!(hedge.fire(&calls.budget, calls.now));
            assert_eq!(calls.ended(&mut hedge, loser, ResponseClass::Failure), HedgeStep::Wait);
            assert_eq!(calls.ended(&mut hedge, winner, ResponseClass::Success), HedgeStep::Finish);
        }
        let mut hedge = calls.begin();
        assert!(hedge.fire(&calls.budget, calls.now));
        assert_eq!(calls.ended(&mut hedge, Leg::Extra, ResponseClass::Throttled), HedgeStep::Wait);
        assert_eq!(calls.ended(&mut hedge, Leg::First, ResponseClass::Failure), HedgeStep::Finish, "both failed");
    }

    #[test]
    fn a_failure_fires_it_now() {
        let calls = calls(9);
        let mut hedge = calls.begin();
        assert_eq!(calls.ended(&mut hedge, Leg::First, ResponseClass::Failure), HedgeStep::Fire);
        assert_eq!(hedge.fires_at(), None);
        assert_eq!(
            calls.ended(&mut hedge, Leg::Extra, ResponseClass::Failure),
            HedgeStep::Finish,
            "one extra, not two"
        );
        for (class, pushback) in [
            (ResponseClass::Failure, Pushback::Never),
            (ResponseClass::Failure, Pushback::After(MS(5))),
            (ResponseClass::Throttled, Pushback::Unsaid),
            (ResponseClass::Ignored, Pushback::Unsaid),
        ] {
            let step = calls.begin().ended(Leg::First, class, pushback, &calls.budget, calls.now);
            assert_eq!(step, HedgeStep::Finish, "{class:?} {pushback:?}");
        }
    }

    #[test]
    fn hedges_are_in_the_budget() {
        let calls = calls(1);
        let fired = (0..100).filter(|_| calls.begin().fire(&calls.budget, calls.now)).count();
        assert_eq!(fired, 10);
        let mut hedge = calls.begin();
        assert_eq!(calls.ended(&mut hedge, Leg::First, ResponseClass::Failure), HedgeStep::Finish);
    }

    #[test]
    fn the_quantile_stays_where_it_is_while_hedges_win() {
        // A twentieth of the calls take ten seconds at their first endpoint, the others ten milliseconds.
        let mut calls = calls(100);
        calls.latencies = Latencies::new(calls.now, POLICY().window);
        let mut hedged = 0;
        for call in 0..20_000_u64 {
            calls.now += MS(10);
            let mut hedge = calls.begin();
            let slow = call % 25 == 0;
            let end = match (slow, hedge.fires_at()) {
                (true, Some(at)) if hedge.fire(&calls.budget, at) => {
                    hedged += 1;
                    assert_eq!(
                        hedge.ended(Leg::Extra, ResponseClass::Success, Pushback::Unsaid, &calls.budget, at),
                        HedgeStep::Finish
                    );
                    at + MS(10)
                }
                _ => calls.now + MS(if slow { 10_000 } else { 10 }),
            };
            calls.latencies.record(hedge.sample(end).unwrap(), calls.now);
        }
        assert!(hedged > 700, "{hedged}");
        let delay = calls.begin().fires_at().unwrap() - calls.now;
        assert!((MS(10)..MS(15)).contains(&delay), "{delay:?}");
    }

    proptest! {
        /// Whatever happens: at most one extra, and the call ends exactly when nothing more can come of it.
        #[test]
        fn every_call_ends(fires: bool, ends in proptest::collection::vec((any::<bool>(), 0..4_usize), 0..6)) {
            let calls = calls(9);
            let mut hedge = calls.begin();
            let mut out = vec![Leg::First];
            if fires && hedge.fire(&calls.budget, calls.now) {
                out.push(Leg::Extra);
            }
            for (first, class) in ends {
                if out.is_empty() {
                    break;
                }
                let leg = out.remove(if first { 0 } else { out.len() - 1 });
                let classes = [ResponseClass::Success, ResponseClass::Failure, ResponseClass::Throttled, ResponseClass::Ignored];
                match calls.ended(&mut hedge, leg, classes[class]) {
                    HedgeStep::Finish => {
                        prop_assert!(classes[class] == ResponseClass::Success || out.is_empty());
                        out.clear();
                    }
                    HedgeStep::Wait => prop_assert!(!out.is_empty()),
                    HedgeStep::Fire => {
                        prop_assert!(leg == Leg::First && out.is_empty());
                        out.push(Leg::Extra);
                    }
                }
            }
        }
    }
}
