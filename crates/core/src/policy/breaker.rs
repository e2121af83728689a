//! Whether an endpoint is asked at all, after it failed too often.

mod state;

use super::response_class::ResponseClass;
use super::window::{Counts, Window, millis};
use state::{Kind, State};
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerPolicy {
    /// How far back results count, in ten buckets. Default: 10 s.
    pub window: Duration,
    /// Results in the window below which their rate says nothing. Default: 20.
    pub requests_min: u32,
    /// Share of failures from which on it opens, above 0 and at most 1. Default: 0.5.
    pub failure_rate: f64,
    /// Failures in a row from which on it opens, however few results there are. Default: 5.
    pub consecutive_failures: Option<u32>,
    /// How long it is open the first time. Default: 5 s. Where a [`Balancer`](super::balance::Balancer) has no other endpoint
    /// to ask, one call goes through each second ([`Breaker::LAST_RESORT`]).
    pub open: Duration,
    /// Opening again soon doubles the time, up to this. Default: 300 s.
    pub open_max: Duration,
    /// Up to this share of the time is added at random, so that gateways do not probe in step. Default: 0.2.
    pub jitter: f64,
    /// A probe that has not ended by then counts as lost, and another call becomes the probe. Default: 30 s.
    pub probe_age_max: Duration,
}

impl BreakerPolicy {
    /// Hystrix's defaults: 20 requests and 50 % in 10 s (its wiki, "Configuration"), open for 5 s every time, without
    /// a count of consecutive failures.
    #[must_use]
    pub const fn hystrix() -> Self {
        Self {
            window: Duration::from_secs(10),
            requests_min: 20,
            failure_rate: 0.5,
            consecutive_failures: None,
            open: Duration::from_secs(5),
            open_max: Duration::from_secs(5),
            jitter: 0.0,
            probe_age_max: Duration::from_secs(30),
        }
    }
}

impl Default for BreakerPolicy {
    /// Hystrix's thresholds, Envoy's five consecutive failures and its 300 s (`max_ejection_time`).
    fn default() -> Self {
        Self { consecutive_failures: Some(5), open_max: Duration::from_secs(300), jitter: 0.2, ..Self::hystrix() }
    }
}

/// A circuit breaker: lock-free, without allocation, for any number of threads (Nygard, "Release It!", 2007).
///
/// *Closed* lets everything through and counts it exactly. *Open* refuses. When its time is over, one call is let
/// through as the probe (*half-open*): its success closes the breaker, its failure opens it for twice as long, and if
/// it is dropped without a result, the next call is the probe.
///
/// A result counts for the state in which its call was let through: what comes late from before an opening changes
/// nothing.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    start: Instant,
    seed: u64,
    /// A [`State`]. Nothing else is published through it, so relaxed order is enough.
    state: AtomicU64,
    /// Failures since the last success.
    streak: AtomicU32,
    /// Results, and failures as marks.
    window: Window,
}

/// What a breaker says to a call that would come now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Come.
    Closed,
    /// Come as the one probe.
    ProbeDue,
    /// A probe is out.
    HalfOpen,
    /// Refused, for that much longer.
    Open(Duration),
}

/// The breaker is open: nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker is open")]
pub struct BreakerOpen {
    /// When asking again may be of use.
    pub retry_after: Duration,
}

/// A call that was let through. Dropped without a result it gives its place as probe, if it had that, to the next.
#[derive(Debug)]
#[must_use = "a permit that is dropped records nothing"]
pub struct BreakerPermit<B: Deref<Target = Breaker>> {
    breaker: B,
    entry: Option<Entry>,
}

/// A call that was let through, without the duty to give its place back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    epoch: u64,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Let through by a closed breaker.
    Counted,
    /// The one whose result decides.
    Probe,
    /// Let through although the breaker is open.
    Forced,
}

impl Breaker {
    /// How long an open breaker refuses where there is nobody else to ask: one call a second finds out when the upstream
    /// is back, and is no load to speak of.
    pub const LAST_RESORT: Duration = Duration::from_secs(1);

    /// A closed breaker. `seed` is any random number: it spreads the openings of many breakers.
    #[must_use]
    pub fn new(policy: BreakerPolicy, start: Instant, seed: u64) -> Self {
        let window = Window::new(start, policy.window);
        let state = AtomicU64::new(State::INITIAL.pack());
        Self { policy, start, seed, state, streak: AtomicU32::new(0), window }
    }

    /// Lets a call through, or refuses it. `self` is a reference or an `Arc`: the permit keeps it.
    ///
    /// # Errors
    /// [`BreakerOpen`] while it is open, or a probe is out.
    pub fn try_acquire<B: Deref<Target = Self>>(this: B, now: Instant) -> Result<BreakerPermit<B>, BreakerOpen> {
        let entry = this.enter(now)?;
        Ok(BreakerPermit { breaker: this, entry: Some(entry) })
    }

    /// Lets a call through whatever its state: for a balancer in panic, with too few healthy endpoints. A success of a
    /// call that was forced through an open breaker closes it.
    pub fn force<B: Deref<Target = Self>>(this: B, now: Instant) -> BreakerPermit<B> {
        let entry = this.enter_by_force(now);
        BreakerPermit { breaker: this, entry: Some(entry) }
    }

    /// What a call that comes now would meet.
    #[must_use]
    pub fn state(&self, now: Instant) -> BreakerState {
        let (state, now_ms) = (self.load(), millis(self.start, now));
        match state.kind {
            Kind::Closed => BreakerState::Closed,
            _ if self.probe_is_due(state, now_ms) => BreakerState::ProbeDue,
            Kind::HalfOpen => BreakerState::HalfOpen,
            Kind::Open => BreakerState::Open(Duration::from_millis(state.at_ms - now_ms)),
        }
    }

    /// Whether it is closed: without a look at the clock.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.load().kind == Kind::Closed
    }

    /// Results in the window, and how many of them are failures: for those who watch.
    #[must_use]
    pub fn counts(&self, now: Instant) -> (u64, u64) {
        let sum = self.window.total(self.window.tick(now));
        (sum.calls, sum.marked)
    }

    /// The values it works by.
    pub(super) const fn policy(&self) -> &BreakerPolicy {
        &self.policy
    }

    pub(super) fn enter_by_force(&self, now: Instant) -> Entry {
        self.enter(now).unwrap_or_else(|_| Entry { epoch: self.load().epoch, role: Role::Forced })
    }

    pub(super) fn enter(&self, now: Instant) -> Result<Entry, BreakerOpen> {
        self.enter_where(now, |state, now_ms| self.probe_is_due(state, now_ms))
    }

    /// Lets a call through where there is nobody else to ask: as the probe, from [`LAST_RESORT`](Self::LAST_RESORT) on.
    pub(super) fn enter_as_last_resort(&self, now: Instant) -> Result<Entry, BreakerOpen> {
        self.enter_where(now, |state, now_ms| self.last_resort_is_due(state, now_ms))
    }

    fn enter_where(&self, now: Instant, is_due: impl Fn(State, u64) -> bool) -> Result<Entry, BreakerOpen> {
        let mut state = self.load();
        while state.kind != Kind::Closed {
            let now_ms = millis(self.start, now);
            if !is_due(state, now_ms) {
                // When a probe ends is not known, only that it is not worth coming back at once.
                let left_ms = if state.kind == Kind::Open { state.at_ms.saturating_sub(now_ms) } else { 1_000 };
                return Err(BreakerOpen { retry_after: Duration::from_millis(left_ms) });
            }
            let probing = state.next(Kind::HalfOpen, now_ms);
            match self.change(state, probing) {
                Ok(()) => return Ok(Entry { epoch: probing.epoch, role: Role::Probe }),
                Err(seen) => state = seen,
            }
        }
        Ok(Entry { epoch: state.epoch, role: Role::Counted })
    }

    /// Takes back what openings have doubled: it was not this endpoint's own failure, most others fail too. Their time
    /// doubles to spare calls that another endpoint answers; where there is none, it would only prolong an outage.
    pub(super) fn forgive(&self, now: Instant) {
        let state = self.load();
        if state.kind == Kind::Open && state.openings > 1 {
            let once = State { openings: 1, ..state };
            let at_ms = state.at_ms.min(millis(self.start, now).saturating_add(self.open_ms(once)));
            let _ = self.change(state, State { at_ms, ..once });
        }
    }

    /// Whether a call that comes now would be the probe where there is nobody else to ask.
    pub(super) fn is_last_resort_due(&self, now: Instant) -> bool {
        self.last_resort_is_due(self.load(), millis(self.start, now))
    }

    fn last_resort_is_due(&self, state: State, now_ms: u64) -> bool {
        let opened_ms = state.at_ms.saturating_sub(self.open_ms(state));
        let after_ms = u64::try_from(Self::LAST_RESORT.min(self.policy.open).as_millis()).unwrap_or(u64::MAX);
        let is_early = state.kind == Kind::Open && now_ms >= opened_ms.saturating_add(after_ms);
        is_early || self.probe_is_due(state, now_ms)
    }

    /// Whether an open breaker's time is over, or the probe of a half-open one is lost. A clock that stepped back must
    /// not keep it shut: a time further away than any it ever sets is over. (With some slack, for threads whose `now`
    /// was read a moment before the others'.)
    fn probe_is_due(&self, state: State, now_ms: u64) -> bool {
        match state.kind {
            Kind::Closed => false,
            Kind::Open => state.at_ms <= now_ms || state.at_ms - now_ms > self.open_ms(state) + 1_000,
            Kind::HalfOpen => {
                let age_max = u64::try_from(self.policy.probe_age_max.as_millis()).unwrap_or(u64::MAX);
                now_ms.abs_diff(state.at_ms) >= age_max
            }
        }
    }

    pub(super) fn record(&self, entry: Entry, class: ResponseClass, now: Instant) {
        let state = self.load();
        if state.epoch != entry.epoch {
            return;
        }
        match (entry.role, class) {
            (Role::Counted, ResponseClass::Success | ResponseClass::Throttled) => {
                self.window.add(self.window.tick(now), Counts::CALL);
                if self.streak.load(Ordering::Relaxed) != 0 {
                    self.streak.store(0, Ordering::Relaxed);
                }
            }
            (Role::Counted, ResponseClass::Failure) => self.count_failure(state, now),
            (Role::Probe | Role::Forced, ResponseClass::Success | ResponseClass::Throttled) => {
                self.close(state, millis(self.start, now));
            }
            (Role::Probe, ResponseClass::Failure) => self.open(state, millis(self.start, now)),
            (Role::Probe, ResponseClass::Ignored) => self.release(entry),
            (Role::Forced, ResponseClass::Failure) | (_, ResponseClass::Ignored) => {}
        }
    }

    fn count_failure(&self, state: State, now: Instant) {
        let tick = self.window.tick(now);
        let current = self.window.add(tick, Counts::MARKED_CALL);
        let sum = self.window.others(tick) + current;
        let streak = self.streak.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let Self { policy, .. } = self;
        let by_rate =
            sum.calls >= u64::from(policy.requests_min) && sum.marked as f64 >= policy.failure_rate * sum.calls as f64;
        let by_streak = policy
            .consecutive_failures
            .is_some_and(|least| u64::from(streak) >= streak_min(least, sum.calls, policy.failure_rate));
        if by_rate || by_streak {
            self.open(state, millis(self.start, now));
        }
    }

    fn open(&self, state: State, now_ms: u64) {
        let closed_ms = now_ms.saturating_sub(state.at_ms);
        // Well for as long as it was last shut: it starts from the beginning.
        let healed = state.kind == Kind::Closed && closed_ms >= self.open_ms(state);
        let openings = if healed { 1 } else { state.openings.saturating_add(1) };
        let next = State { openings, ..state.next(Kind::Open, now_ms) };
        let next = State { at_ms: now_ms.saturating_add(self.open_ms(next)), ..next };
        let _ = self.change(state, next);
    }

    fn close(&self, state: State, now_ms: u64) {
        // Before the change: results of the new epoch are counted from there on.
        self.window.clear();
        self.streak.store(0, Ordering::Relaxed);
        let _ = self.change(state, state.next(Kind::Closed, now_ms));
    }

    /// A probe ended without a result: another is due at once.
    pub(super) fn release(&self, entry: Entry) {
        let state = self.load();
        if entry.is_probe() && state.epoch == entry.epoch {
            let _ = self.change(state, state.next(Kind::Open, state.at_ms));
        }
    }

    /// How long this opening lasts: `open * 2^(openings - 1)`, at most `open_max`, and up to `jitter` of it more.
    fn open_ms(&self, state: State) -> u64 {
        let doubled = self.policy.open.saturating_mul(1 << state.openings.saturating_sub(1).min(30));
        let time = doubled.min(self.policy.open_max.max(self.policy.open));
        let spread = 1.0 + self.policy.jitter.clamp(0.0, 1.0) * unit(self.seed.wrapping_add(state.epoch));
        // Longer than a day is no breaker; the state has room for decades.
        ((time.as_secs_f64() * spread).min(86_400.0) * 1_000.0) as u64
    }

    fn load(&self) -> State {
        State::unpack(self.state.load(Ordering::Relaxed))
    }

    fn change(&self, from: State, to: State) -> Result<(), State> {
        let changed = self.state.compare_exchange(from.pack(), to.pack(), Ordering::Relaxed, Ordering::Relaxed);
        changed.map(drop).map_err(State::unpack)
    }
}

impl Entry {
    pub(super) fn is_probe(self) -> bool {
        self.role == Role::Probe
    }
}

impl<B: Deref<Target = Breaker>> BreakerPermit<B> {
    /// Records how the call ended.
    pub fn record(mut self, class: ResponseClass, now: Instant) {
        if let Some(entry) = self.entry.take() {
            self.breaker.record(entry, class, now);
        }
    }

    /// Whether the result of this call decides over the breaker's state.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.entry.is_some_and(Entry::is_probe)
    }
}

impl<B: Deref<Target = Breaker>> Drop for BreakerPermit<B> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.breaker.release(entry);
        }
    }
}

/// The least streak of failures that means something: `least`, and more where there are so many calls that chance
/// alone brings streaks, at a failure rate that is still bearable. Of `n` calls of which a share `rate` fails, about
/// `n * rate^k` begin a streak of `k`: that is below one from `k = log(n) / log(1/rate)` on.
pub(super) fn streak_min(least: u32, calls: u64, rate: f64) -> u64 {
    let by_chance = (calls.max(1) as f64).ln() / -rate.clamp(0.01, 0.9).ln();
    u64::from(least).max(by_chance.ceil() as u64)
}

/// A number in `0.0..1.0` that depends on nothing but `seed`, by the finaliser of SplitMix64 (Steele, Lea, Flood,
/// OOPSLA 2014).
fn unit(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
