//! One endpoint of an upstream: everything that decides whether it is asked.

use super::breaker::{Breaker, BreakerOpen, BreakerPolicy, BreakerState, Entry};
use super::load::Load;
use super::outlier::{OutlierPolicy, OutlierRecord};
use super::response_class::ResponseClass;
use super::retry::Pushback;
use super::window::millis;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// An endpoint's breaker, load, record and health, shared by all threads that send to it.
#[derive(Debug)]
pub struct Endpoint {
    start: Instant,
    breaker: Breaker,
    load: Load,
    outlier: OutlierRecord,
    is_up: AtomicBool,
    /// Milliseconds from `start`: since when it serves, for the slow start.
    since_ms: AtomicU64,
}

/// A call at an endpoint. It is under way until this is dropped: keep it until the body of the answer has ended.
///
/// Dropped without a result (its caller hung up) it says nothing about the endpoint, and a probe goes to the next call.
#[derive(Debug)]
#[must_use = "the call is under way only as long as its lease lives"]
pub struct EndpointLease<E: Deref<Target = Endpoint>> {
    endpoint: E,
    entry: Option<Entry>,
    begun: Instant,
}

impl Endpoint {
    /// An endpoint of which nothing is known. `seed` is any random number: it spreads the openings of breakers.
    #[must_use]
    pub fn new(breaker: BreakerPolicy, outlier: &OutlierPolicy, start: Instant, seed: u64) -> Self {
        Self {
            start,
            breaker: Breaker::new(breaker, start, seed),
            load: Load::new(start, Load::DECAY),
            outlier: OutlierRecord::new(outlier),
            is_up: AtomicBool::new(true),
            since_ms: AtomicU64::new(0),
        }
    }

    /// Its breaker.
    #[must_use]
    pub const fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Its load.
    #[must_use]
    pub const fn load(&self) -> &Load {
        &self.load
    }

    /// Its record with the outlier detector.
    #[must_use]
    pub const fn outlier(&self) -> &OutlierRecord {
        &self.outlier
    }

    /// Whether the last active health check found it well; true where there is none.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Tells what an active health check found.
    pub fn set_up(&self, is_up: bool, now: Instant) {
        if is_up && !self.is_up.swap(true, Ordering::Relaxed) {
            self.serves_since(now);
        } else if !is_up {
            self.is_up.store(false, Ordering::Relaxed);
        }
    }

    /// For how long it has served since it was new, or back.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        Duration::from_millis(millis(self.start, now).saturating_sub(self.since_ms.load(Ordering::Relaxed)))
    }

    /// Lets a call go to it, if its breaker does.
    ///
    /// # Errors
    /// [`BreakerOpen`].
    pub fn try_lease<E: Deref<Target = Self>>(this: E, now: Instant) -> Result<EndpointLease<E>, BreakerOpen> {
        let entry = this.breaker.enter(now)?;
        Ok(EndpointLease::new(this, entry, now))
    }

    /// Lets a call go to it, if its breaker does where there is nobody else to ask: see [`Breaker::LAST_RESORT`].
    ///
    /// # Errors
    /// [`BreakerOpen`].
    pub fn try_lease_as_last_resort<E: Deref<Target = Self>>(
        this: E,
        now: Instant,
    ) -> Result<EndpointLease<E>, BreakerOpen> {
        let entry = this.breaker.enter_as_last_resort(now)?;
        Ok(EndpointLease::new(this, entry, now))
    }

    /// Lets a call go to it whatever its breaker says: see [`Breaker::force`].
    pub fn force_lease<E: Deref<Target = Self>>(this: E, now: Instant) -> EndpointLease<E> {
        let entry = this.breaker.enter_by_force(now);
        EndpointLease::new(this, entry, now)
    }

    pub(super) fn breaker_state(&self, now: Instant) -> BreakerState {
        if self.breaker.is_closed() { BreakerState::Closed } else { self.breaker.state(now) }
    }

    fn serves_since(&self, now: Instant) {
        self.since_ms.store(millis(self.start, now), Ordering::Relaxed);
    }
}

impl<E: Deref<Target = Endpoint>> EndpointLease<E> {
    fn new(endpoint: E, entry: Entry, now: Instant) -> Self {
        endpoint.load.begin();
        Self { endpoint, entry: Some(entry), begun: now }
    }

    /// The endpoint.
    pub const fn endpoint(&self) -> &E {
        &self.endpoint
    }

    /// Tells how the call ended; the first word counts. The call stays under way until the lease is dropped.
    ///
    /// A failure or a refusal counts as a latency of 5 s, or of what the upstream asks to wait.
    pub fn record(&mut self, class: ResponseClass, pushback: Pushback, now: Instant) {
        let Some(entry) = self.entry.take() else { return };
        let endpoint = &*self.endpoint;
        let latency = now.saturating_duration_since(self.begun);
        let was_closed = endpoint.breaker.is_closed();
        endpoint.breaker.record(entry, class, now);
        endpoint.outlier.record(class);
        match class {
            ResponseClass::Success if !was_closed && endpoint.breaker.is_closed() => {
                endpoint.load.restart(latency, now);
                endpoint.serves_since(now);
            }
            ResponseClass::Success => endpoint.load.observe(latency, now),
            ResponseClass::Failure | ResponseClass::Throttled => {
                endpoint.load.observe(latency.max(Load::FAILURE).max(pushback.floor()), now);
            }
            ResponseClass::Ignored => {}
        }
    }

    /// Gives the call up although it has not ended: the loser of a hedge. It was at least that slow.
    pub fn abandon(self, now: Instant) {
        let latency = now.saturating_duration_since(self.begun);
        if self.entry.is_some() && latency > self.endpoint.load.latency(now) {
            self.endpoint.load.observe(latency, now);
        }
    }
}

impl<E: Deref<Target = Endpoint>> Drop for EndpointLease<E> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.endpoint.breaker.release(entry);
        }
        self.endpoint.load.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::clock::some_instant;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn endpoint(now: Instant) -> Endpoint {
        let breaker = BreakerPolicy { jitter: 0.0, ..BreakerPolicy::default() };
        Endpoint::new(breaker, &OutlierPolicy::default(), now, 1)
    }

    fn call(endpoint: &Endpoint, now: Instant, class: ResponseClass, pushback: Pushback) {
        let mut lease = Endpoint::try_lease(endpoint, now).unwrap();
        lease.record(class, pushback, now + MS(2));
        lease.record(ResponseClass::Failure, Pushback::Never, now + MS(2));
    }

    #[test]
    fn a_failure_costs_five_seconds_or_what_was_asked() {
        let now = some_instant();
        for (class, pushback, ms) in [
            (ResponseClass::Success, Pushback::Unsaid, 2),
            (ResponseClass::Failure, Pushback::Unsaid, 5_000),
            (ResponseClass::Failure, Pushback::After(MS(1_000)), 5_000),
            (ResponseClass::Throttled, Pushback::After(MS(60_000)), 60_000),
            (ResponseClass::Ignored, Pushback::Unsaid, 0),
        ] {
            let endpoint = endpoint(now);
            call(&endpoint, now, class, pushback);
            let latency = endpoint.load().latency(now + MS(2));
            assert!(latency.abs_diff(MS(ms)) < Duration::from_micros(100), "{class:?} {pushback:?}: {latency:?}");
        }
    }

    #[test]
    fn a_call_is_under_way_until_its_lease_is_dropped() {
        let now = some_instant();
        let endpoint = endpoint(now);
        let mut lease = Endpoint::try_lease(&endpoint, now).unwrap();
        lease.record(ResponseClass::Success, Pushback::Unsaid, now);
        assert_eq!(endpoint.load().in_flight(), 1, "the body is still on its way");
        drop(lease);
        assert_eq!(endpoint.load().in_flight(), 0);
    }

    #[test]
    fn a_probe_that_succeeds_starts_it_anew() {
        let now = some_instant();
        let endpoint = endpoint(now);
        (0..5).for_each(|_| call(&endpoint, now, ResponseClass::Failure, Pushback::Unsaid));
        assert!(Endpoint::try_lease(&endpoint, now).is_err());
        let later = now + MS(6_000);
        drop(Endpoint::try_lease(&endpoint, later).unwrap());
        call(&endpoint, later, ResponseClass::Success, Pushback::Unsaid);
        assert!(endpoint.load().latency(later + MS(2)) < MS(3), "five seconds of penalty are forgotten");
        assert_eq!(endpoint.age(later + MS(1_002)), MS(1_000));
    }

    #[test]
    fn the_loser_of_a_hedge_was_slow() {
        let now = some_instant();
        let endpoint = endpoint(now);
        call(&endpoint, now, ResponseClass::Success, Pushback::Unsaid);
        Endpoint::try_lease(&endpoint, now).unwrap().abandon(now + MS(1));
        assert!(endpoint.load().latency(now + MS(2)) < MS(3));
        Endpoint::try_lease(&endpoint, now).unwrap().abandon(now + MS(800));
        assert!(endpoint.load().latency(now + MS(800)) > MS(790));
    }

    #[test]
    fn health_checks_begin_a_slow_start() {
        let now = some_instant();
        let endpoint = endpoint(now);
        endpoint.set_up(true, now + MS(500));
        assert_eq!(endpoint.age(now + MS(1_000)), MS(1_000), "it was up before");
        endpoint.set_up(false, now + MS(2_000));
        assert!(!endpoint.is_up());
        endpoint.set_up(true, now + MS(3_000));
        assert_eq!(endpoint.age(now + MS(4_000)), MS(1_000));
    }
}
