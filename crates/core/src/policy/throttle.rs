//! Refusing at the caller's side what the upstream would refuse anyway.

use super::response_class::ResponseClass;
use super::window::{Counts, SLOTS, Tick, Window};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When calls are refused before they are sent.
///
/// The defaults are those of Envoy's admission control filter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThrottlePolicy {
    /// How far back calls count, in ten buckets. Default: 30 s.
    pub window: Duration,
    /// Share of accepted calls down to which nothing is refused, above 0 and at most 1. Default: 0.95.
    pub accept_rate: f64,
    /// The largest probability of a refusal: the rest finds out when the upstream is well again. Default: 0.8.
    pub rejection_max: f64,
    /// Calls in the window below which nothing is refused. Default: 20.
    pub requests_min: u32,
    /// A call that is under way for less than about this is not yet held against the upstream. Default: 5 s.
    pub patience: Duration,
}

impl Default for ThrottlePolicy {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            accept_rate: 0.95,
            rejection_max: 0.8,
            requests_min: 20,
            patience: Duration::from_secs(5),
        }
    }
}

/// Adaptive throttling ("Handling Overload", Site Reliability Engineering, 2016, chapter 21), in the form of Envoy's
/// admission control filter: a call is refused with the probability `max(0, (n - s/0.95) / (n + 1))`, where of the last
/// 30 s `n` counts the calls that were sent and `s` those that were accepted. Lock-free, without allocation.
///
/// `n` is counted before sending, so that an upstream that swallows calls is seen before the first of them times out.
/// Calls that are simply under way would look the same, and a burst on a quiet upstream would be refused: those that
/// began just now are left out.
///
/// Calls that were refused here are not in `n`, other than in the book: its factor of 2 lets what is sent double with
/// each window once the upstream is well again; with 1/0.95 that would take a quarter of an hour.
#[derive(Debug)]
pub struct Throttle {
    policy: ThrottlePolicy,
    /// Buckets that patience spans.
    recent: u64,
    /// Calls, and accepted ones as marks.
    window: Window,
    in_flight: AtomicU64,
}

/// Refused here: nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upstream refuses so many calls that this one was not sent")]
pub struct Throttled;

/// A call that is sent. Dropped without a result (its caller hung up) it counts neither way.
#[derive(Debug)]
#[must_use = "a permit that is dropped says that nobody waited for the result"]
pub struct ThrottlePermit<T: Deref<Target = Throttle>> {
    throttle: T,
    /// When it was counted; none once it is concluded.
    tick: Option<Tick>,
}

impl Throttle {
    /// A throttle that knows nothing yet and refuses nothing.
    #[must_use]
    pub fn new(policy: ThrottlePolicy, start: Instant) -> Self {
        let slot_ms = (policy.window.as_millis() / u128::from(SLOTS)).max(1);
        let recent = u64::try_from(policy.patience.as_millis() / slot_ms).unwrap_or(SLOTS);
        Self { policy, recent, window: Window::new(start, policy.window), in_flight: AtomicU64::new(0) }
    }

    /// Counts a call and lets it through, or refuses it. `rand` is in `0.0..1.0`.
    ///
    /// # Errors
    /// [`Throttled`] for as large a share of calls as the upstream's refusals ask for.
    pub fn try_acquire<T: Deref<Target = Self>>(
        this: T,
        now: Instant,
        rand: f64,
    ) -> Result<ThrottlePermit<T>, Throttled> {
        let tick = this.window.tick(now);
        if rand < this.probability(tick) {
            return Err(Throttled);
        }
        this.window.add(tick, Counts::CALL);
        this.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(ThrottlePermit { throttle: this, tick: Some(tick) })
    }

    /// The probability with which a call that comes now is refused.
    #[must_use]
    pub fn rejection_probability(&self, now: Instant) -> f64 {
        self.probability(self.window.tick(now))
    }

    fn probability(&self, tick: Tick) -> f64 {
        let sum = self.window.total(tick);
        if sum.calls == sum.marked || sum.calls < u64::from(self.policy.requests_min) {
            return 0.0;
        }
        let begun_just_now = self.window.latest(tick, self.recent).calls;
        let patient = self.in_flight.load(Ordering::Relaxed).min(begun_just_now);
        let calls = sum.calls.saturating_sub(patient) as f64;
        let accepted = sum.marked as f64 / self.policy.accept_rate.clamp(0.01, 1.0);
        ((calls - accepted) / (calls + 1.0)).clamp(0.0, self.policy.rejection_max.clamp(0.0, 1.0))
    }
}

impl<T: Deref<Target = Throttle>> ThrottlePermit<T> {
    /// Records how the call ended.
    pub fn record(mut self, class: ResponseClass, now: Instant) {
        // Counted where it ended, not where it began: so in steady state slow calls, too, are as many as accepted ones.
        match class {
            ResponseClass::Success => {
                self.throttle.window.add(self.throttle.window.tick(now), Counts::MARK);
                self.conclude();
            }
            ResponseClass::Failure | ResponseClass::Throttled => {
                self.conclude();
            }
            ResponseClass::Ignored => {}
        }
    }

    fn conclude(&mut self) -> Option<Tick> {
        let tick = self.tick.take();
        if tick.is_some() {
            self.throttle.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        tick
    }
}

impl<T: Deref<Target = Throttle>> Drop for ThrottlePermit<T> {
    fn drop(&mut self) {
        if let Some(tick) = self.conclude() {
            self.throttle.window.amend(tick, Counts::MARK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::clock::some_instant;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// `calls` calls one after the other, `every` after the one before, that take no time; of those that are sent
    /// `accept` says which are accepted. Draws are spread evenly. Returns how many were sent.
    fn run(throttle: &Throttle, now: &mut Instant, calls: u64, every: Duration, accept: impl Fn(u64) -> bool) -> u64 {
        let mut sent = 0;
        for call in 0..calls {
            let rand = (call as f64 * 0.618_033_988_75).fract();
            if let Ok(permit) = Throttle::try_acquire(throttle, *now, rand) {
                permit.record(if accept(sent) { ResponseClass::Success } else { ResponseClass::Failure }, *now);
                sent += 1;
            }
            *now += every;
        }
        sent
    }

    #[test]
    fn the_formula() {
        let mut now = some_instant();
        let throttle = Throttle::new(ThrottlePolicy::default(), now);
        run(&throttle, &mut now, 1_000, MS(1), |sent| sent % 2 == 0);
        let sum = throttle.window.total(throttle.window.tick(now));
        let expected = (sum.calls as f64 - sum.marked as f64 / 0.95) / (sum.calls as f64 + 1.0);
        assert!((throttle.rejection_probability(now) - expected).abs() < 1e-9);
        assert!((0.45..0.5).contains(&expected), "of the calls that are sent half fail, whatever is refused here");
    }

    #[test]
    fn few_failures_and_few_calls_are_let_through() {
        let mut now = some_instant();
        let throttle = Throttle::new(ThrottlePolicy::default(), now);
        assert_eq!(run(&throttle, &mut now, 19, MS(1), |_| false), 19, "nineteen say nothing");
        now += Duration::from_secs(30);
        assert_eq!(run(&throttle, &mut now, 10_000, MS(1), |sent| sent % 25 != 0), 10_000, "four percent");
    }

    #[test]
    fn a_fifth_always_gets_through_and_finds_out() {
        let mut now = some_instant();
        let throttle = Throttle::new(ThrottlePolicy::default(), now);
        run(&throttle, &mut now, 3_000, MS(10), |_| false);
        let sent = run(&throttle, &mut now, 1_000, MS(10), |_| false);
        assert!((190..=210).contains(&sent), "{sent}");
        run(&throttle, &mut now, 3_000, MS(10), |_| true);
        assert_eq!(run(&throttle, &mut now, 1_000, MS(10), |_| true), 1_000, "well for one window");
    }

    #[test]
    fn a_burst_on_a_slow_upstream_is_no_failure() {
        let now = some_instant();
        let throttle = Throttle::new(ThrottlePolicy::default(), now);
        let calls: Vec<_> = (0..500).map(|_| Throttle::try_acquire(&throttle, now, 0.0).expect("under way")).collect();
        calls.into_iter().for_each(|call| call.record(ResponseClass::Success, now + MS(4_000)));
        assert!(throttle.rejection_probability(now + MS(4_000)) <= 0.0);
    }

    #[test]
    fn an_upstream_that_swallows_calls_is_seen_before_they_time_out() {
        let now = some_instant();
        let throttle = Throttle::new(ThrottlePolicy::default(), now);
        let calls: Vec<_> = (0..500).map(|_| Throttle::try_acquire(&throttle, now, 0.0).expect("under way")).collect();
        assert!(throttle.rejection_probability(now + MS(10_000)) > 0.7);
        drop(calls);
        assert!(throttle.rejection_probability(now + MS(10_000)) <= 0.0, "callers that hung up say nothing");
        assert_eq!(throttle.in_flight.into_inner(), 0);
    }

    #[test]
    fn what_was_not_its_doing_counts_neither_way() {
        let now = some_instant();
        let throttle = Throttle::new(ThrottlePolicy::default(), now);
        for _ in 0..100 {
            Throttle::try_acquire(&throttle, now, 0.0).expect("let through").record(ResponseClass::Ignored, now);
        }
        assert!(throttle.rejection_probability(now) <= 0.0);
        for _ in 0..100 {
            let _ = Throttle::try_acquire(&throttle, now, 0.99).map(|call| call.record(ResponseClass::Throttled, now));
        }
        assert!(throttle.rejection_probability(now) > 0.4, "a refusal is none");
    }

    #[test]
    fn a_clock_that_steps_back_is_survived() {
        let mut now = some_instant() + Duration::from_secs(3_600);
        let throttle = Throttle::new(ThrottlePolicy::default(), now - Duration::from_secs(3_600));
        run(&throttle, &mut now, 1_000, MS(1), |_| false);
        let mut now = now - Duration::from_secs(1_800);
        assert_eq!(run(&throttle, &mut now, 1_000, MS(1), |_| true), 1_000);
    }

    proptest! {
        #[test]
        fn the_probability_is_bounded_and_nothing_leaks(
            steps in proptest::collection::vec((0..5_u8, 0_u64..4_000), 0..300),
        ) {
            let mut now = some_instant();
            let throttle = Throttle::new(ThrottlePolicy { requests_min: 1, ..ThrottlePolicy::default() }, now);
            let mut out = Vec::new();
            for (what, ms) in steps {
                now += MS(ms / 4);
                match (what, out.pop()) {
                    (0, Some(permit)) => drop::<ThrottlePermit<&Throttle>>(permit),
                    (1, Some(permit)) => permit.record(ResponseClass::Failure, now),
                    (2, Some(permit)) => permit.record(ResponseClass::Success, now),
                    (_, Some(permit)) => out.push(permit),
                    (_, None) => {}
                }
                out.extend(Throttle::try_acquire(&throttle, now, 0.9));
                prop_assert!((0.0..=0.8).contains(&throttle.rejection_probability(now)));
                prop_assert_eq!(throttle.in_flight.load(Ordering::Relaxed), out.len() as u64);
            }
        }
    }
}
