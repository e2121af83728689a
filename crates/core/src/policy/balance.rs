//! Which endpoint of an upstream is asked.

mod set;

use super::breaker::BreakerState;
use super::endpoint::{Endpoint, EndpointLease};
use super::outlier::{OutlierDetector, OutlierPolicy, Standing};
use set::Set;
use std::ops::Deref;
use std::time::{Duration, Instant};

pub use set::ENDPOINTS_MAX;

/// How calls are spread over endpoints.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BalancePolicy {
    /// Share of healthy endpoints below which health is disregarded (Envoy's panic threshold); 0: never. Default: 0.5.
    pub panic_threshold: f64,
    /// For how long an endpoint that is new, or back, gets less than its share; zero: it does not. Default: 10 s.
    pub slow_start: Duration,
}

impl BalancePolicy {
    /// What an endpoint in its slow start gets at least, as a share of what it would get otherwise. (Envoy's
    /// `min_weight_percent`.)
    pub const SLOW_START_SHARE_MIN: f64 = 0.1;
}

impl Default for BalancePolicy {
    fn default() -> Self {
        Self { panic_threshold: 0.5, slow_start: Duration::from_secs(10) }
    }
}

/// The better of two, drawn at random: power of two choices (Mitzenmacher, 2001) on peak-EWMA latency times calls under
/// way, as in Finagle.
///
/// Healthy is who is up by its health checks, not ejected, and whose breaker is closed.
///
/// 1. An endpoint whose breaker is due for a probe gets the first attempt of a call: nobody else would close it.
/// 2. Otherwise the healthy are drawn from; those that this call has tried only when there is no other.
/// 3. *Panic*: with some, but fewer than half of them healthy, all are drawn from and open breakers are passed. The
///    load of all would bring the last ones down too.
/// 4. With none healthy there is nobody to protect: breakers are heeded, ejections and health checks are not. Where none
///    is closed, each lets a probe through every second; all other calls are refused at once.
/// 5. With more breakers open than endpoints may be ejected at a time (a tenth, or one), openings that have doubled are
///    cut back to the first: what fails is the upstream, not this or that endpoint.
///
/// Lock-free, without allocation. Costs a look at each endpoint.
#[derive(Debug)]
pub struct Balancer {
    policy: BalancePolicy,
    outliers: OutlierDetector,
}

/// The endpoint that a call goes to.
#[derive(Debug)]
pub struct Picked<E: Deref<Target = Endpoint>> {
    /// Its place in the list.
    pub index: usize,
    /// The call there.
    pub lease: EndpointLease<E>,
    /// Whether health was disregarded.
    pub is_panic: bool,
}

/// Every endpoint's breaker is open: nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker of every endpoint is open")]
pub struct NoEndpoint {
    /// When asking again may be of use: no later than the first opening of a breaker lasts.
    pub retry_after: Duration,
}

/// One look at all endpoints.
struct Survey {
    healthy: Set,
    closed: Set,
    /// Endpoints whose breaker is not closed.
    shut: usize,
    /// Due for a probe, and nothing else speaks against them.
    due: Set,
    last_resort: Set,
    /// Until the first open breaker is due.
    retry_after: Duration,
}

impl Balancer {
    /// For one upstream.
    #[must_use]
    pub fn new(policy: BalancePolicy, outlier: OutlierPolicy, start: Instant) -> Self {
        Self { policy, outliers: OutlierDetector::new(outlier, start) }
    }

    /// What compares the endpoints.
    #[must_use]
    pub const fn outliers(&self) -> &OutlierDetector {
        &self.outliers
    }

    /// Picks one of `endpoints`, of which the first [`ENDPOINTS_MAX`] are looked at, for a call that has already tried
    /// those that `tried` says. `rand` is any random number, all 64 bits of it.
    ///
    /// # Errors
    /// [`NoEndpoint`] where no breaker lets the call through, or the list is empty.
    pub fn pick<E: Deref<Target = Endpoint> + Clone>(
        &self,
        endpoints: &[E],
        tried: impl Fn(usize) -> bool,
        now: Instant,
        rand: u64,
    ) -> Result<Picked<E>, NoEndpoint> {
        if let [only] = endpoints {
            let lease = Endpoint::try_lease_as_last_resort(only.clone(), now);
            let open = only.breaker().policy().open;
            let lease = lease.map_err(|shut| NoEndpoint { retry_after: shut.retry_after.min(open) })?;
            return Ok(Picked { index: 0, lease, is_panic: false });
        }
        let endpoints = &endpoints[..endpoints.len().min(ENDPOINTS_MAX)];
        self.outliers.compare(endpoints.iter().map(|endpoint| endpoint.outlier()), now);
        // Another thread may take a probe between the survey and the call: then it looks again.
        for _ in 0..3 {
            let survey = self.survey(endpoints, now);
            let (candidates, is_panic) = self.candidates(&survey, endpoints.len(), &tried);
            if survey.shut > 1 && !self.outliers.may_be_ejected(survey.shut, endpoints.len()) {
                endpoints.iter().for_each(|endpoint| endpoint.breaker().forgive(now));
            }
            let Some(index) = self.better_of_two(endpoints, &candidates, now, rand) else {
                return Err(NoEndpoint { retry_after: survey.retry_after });
            };
            let endpoint = endpoints[index].clone();
            if is_panic {
                return Ok(Picked { index, lease: Endpoint::force_lease(endpoint, now), is_panic });
            }
            let lease = if survey.closed.is_empty() {
                Endpoint::try_lease_as_last_resort(endpoint, now)
            } else {
                Endpoint::try_lease(endpoint, now)
            };
            if let Ok(lease) = lease {
                return Ok(Picked { index, lease, is_panic });
            }
        }
        Err(NoEndpoint { retry_after: Duration::from_secs(1) })
    }

    fn survey<E: Deref<Target = Endpoint>>(&self, endpoints: &[E], now: Instant) -> Survey {
        let (mut healthy, mut closed) = (Set::default(), Set::default());
        let (mut due, mut last_resort) = (Set::default(), Set::default());
        let (mut retry_after, mut shut) = (Duration::MAX, endpoints.len());
        for (index, endpoint) in endpoints.iter().enumerate() {
            let serves = endpoint.is_up() && self.outliers.ejected_for(endpoint.outlier(), now).is_none();
            match endpoint.breaker_state(now) {
                BreakerState::Closed => {
                    closed.insert(index);
                    shut -= 1;
                    if serves {
                        healthy.insert(index);
                    }
                }
                BreakerState::ProbeDue => {
                    last_resort.insert(index);
                    if serves {
                        due.insert(index);
                    }
                }
                BreakerState::HalfOpen => retry_after = retry_after.min(Duration::from_secs(1)),
                BreakerState::Open(left) => {
                    retry_after = retry_after.min(left).min(endpoint.breaker().policy().open);
                    if endpoint.breaker().is_last_resort_due(now) {
                        last_resort.insert(index);
                    }
                }
            }
        }
        let retry_after = if retry_after == Duration::MAX { Duration::from_secs(1) } else { retry_after };
        Survey { healthy, closed, shut, due, last_resort, retry_after }
    }

    /// Who is drawn from, and whether that is in panic.
    fn candidates(&self, survey: &Survey, count: usize, tried: &impl Fn(usize) -> bool) -> (Set, bool) {
        let all = Set::first(count);
        let is_first_attempt = !(0..count).any(tried);
        // Those that were not tried; if all were, all.
        let fresh = |set: Set| {
            let fresh = set.without(tried);
            if fresh.is_empty() { set } else { fresh }
        };
        if is_first_attempt && !survey.due.is_empty() {
            return (survey.due, false);
        }
        if survey.healthy.is_empty() {
            return (fresh(if survey.closed.is_empty() { survey.last_resort } else { survey.closed }), false);
        }
        if (survey.healthy.len() as f64) < self.policy.panic_threshold * count as f64 {
            return (fresh(all), true);
        }
        (fresh(survey.healthy), false)
    }

    /// Draws two and takes the one with less cost; `None` where there is none to draw.
    fn better_of_two<E: Deref<Target = Endpoint>>(
        &self,
        endpoints: &[E],
        candidates: &Set,
        now: Instant,
        rand: u64,
    ) -> Option<usize> {
        let count = candidates.len() as u64;
        // 24 bits choose the first, 24 the second, 16 are the coin of the slow start.
        let first = ((rand & 0xFF_FFFF) * count) >> 24;
        let one = candidates.nth(first as usize)?;
        if count == 1 {
            return Some(one);
        }
        let second = ((rand >> 24 & 0xFF_FFFF) * (count - 1)) >> 24;
        let other = candidates.nth((second + u64::from(second >= first)) as usize)?;
        let is_less = endpoints[one].load().cost(now) <= endpoints[other].load().cost(now);
        let (winner, loser) = if is_less { (one, other) } else { (other, one) };
        let share = self.share(&endpoints[winner], now);
        if share >= 1.0 {
            return Some(winner);
        }
        // Not spared where the other one has more than that much more to do: it would be buried.
        let in_flight = |index: usize| f64::from(endpoints[index].load().in_flight() + 1);
        if in_flight(loser) * share > in_flight(winner) {
            return Some(winner);
        }
        // Where both are new, neither is spared.
        let coin = (rand >> 48) as f64 / 65_536.0;
        Some(if coin < share / self.share(&endpoints[loser], now) { winner } else { loser })
    }

    /// The share of its calls that an endpoint gets in its slow start; 1 after it.
    fn share(&self, endpoint: &Endpoint, now: Instant) -> f64 {
        let mut age = endpoint.age(now);
        if let Standing::Back(since) = self.outliers.standing(endpoint.outlier(), now) {
            age = age.min(since);
        }
        if age >= self.policy.slow_start {
            return 1.0;
        }
        (age.as_secs_f64() / self.policy.slow_start.as_secs_f64()).max(BalancePolicy::SLOW_START_SHARE_MIN)
    }
}

#[cfg(test)]
mod tests;
