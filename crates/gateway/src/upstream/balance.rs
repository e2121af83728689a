//! Which endpoint is asked, by what is known of them all.

use std::sync::Arc;
use std::time::Instant;

use semel_core::policy::balance::{Balancer, NoEndpoint};
use semel_core::policy::breaker::{BreakerPolicy, BreakerState};
use semel_core::policy::endpoint::{Endpoint, EndpointLease};
use semel_core::policy::outlier::OutlierPolicy;

use super::attempt::{EndpointIndex, Tried};
use super::settings::UpstreamSettings;
use crate::clock;
use crate::random;

/// What is known of an upstream's endpoints, by all runtimes together: one of them must not go on asking an endpoint of
/// which another knows that it is down.
#[derive(Debug)]
pub struct Health {
    /// What the records of ejections count from.
    start: Instant,
    balancer: Balancer,
    endpoints: Box<[Arc<Endpoint>]>,
}

/// What an endpoint's breaker and peers say of it, in a word for `/metrics` and people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndpointState {
    /// It is asked.
    Serving,
    /// Its breaker is open or tries out a first call.
    BreakerOpen,
    /// It did worse than its peers and is left out for a while.
    Ejected,
    /// It does not answer well when asked how it is.
    Unhealthy,
}

impl EndpointState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Serving, Self::BreakerOpen, Self::Ejected, Self::Unhealthy];

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::BreakerOpen => "breaker-open",
            Self::Ejected => "ejected",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl Health {
    /// Nothing is known yet of these endpoints, but what `former` knew under the same policies.
    #[must_use]
    pub fn new(settings: &UpstreamSettings, former: Option<(&UpstreamSettings, &Self)>) -> Self {
        let now = clock::now();
        let breaker = settings.breaker.unwrap_or(NEVER_OPENS);
        let outlier = settings.outlier.unwrap_or(NEVER_EJECTS);
        let former = former.filter(|(old, _)| (old.breaker, old.outlier) == (settings.breaker, settings.outlier));
        let start = former.map_or(now, |(_, health)| health.start);
        let known = |endpoint: &super::Endpoint| {
            let (old, health) = former?;
            old.endpoints
                .iter()
                .zip(&health.endpoints)
                .find(|(old, _)| *old == endpoint)
                .map(|(_, known)| known.clone())
        };
        let endpoint = |endpoint| {
            known(endpoint).unwrap_or_else(|| Arc::new(Endpoint::new(breaker, &outlier, now, random::next_u64())))
        };
        Self {
            start,
            balancer: Balancer::new(settings.balance, outlier, start),
            endpoints: settings.endpoints.iter().map(endpoint).collect(),
        }
    }

    /// What is known of each endpoint, in the order of the settings.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The endpoint for the next attempt of a call that has tried those before.
    pub(super) fn pick(&self, tried: Tried) -> Result<(EndpointIndex, EndpointLease<Arc<Endpoint>>), NoEndpoint> {
        let was_tried = |index| tried.contains(EndpointIndex::at(index));
        let picked = self.balancer.pick(&self.endpoints, was_tried, clock::now(), random::next_u64())?;
        if picked.is_panic {
            tracing::debug!("most endpoints are unhealthy: health is disregarded");
        }
        Ok((EndpointIndex::at(picked.index), picked.lease))
    }

    /// What stands against each endpoint, in the order of the configuration.
    pub fn states(&self, now: Instant) -> impl Iterator<Item = EndpointState> {
        self.endpoints.iter().map(move |endpoint| match endpoint.breaker().state(now) {
            _ if !endpoint.is_up() => EndpointState::Unhealthy,
            BreakerState::Closed if self.balancer.outliers().ejected_for(endpoint.outlier(), now).is_none() => {
                EndpointState::Serving
            }
            BreakerState::Closed => EndpointState::Ejected,
            _ => EndpointState::BreakerOpen,
        })
    }
}

/// Without `breaker` in the configuration.
const NEVER_OPENS: BreakerPolicy =
    BreakerPolicy { requests_min: u32::MAX, consecutive_failures: None, ..BreakerPolicy::hystrix() };

/// Without `outlier` in the configuration.
const NEVER_EJECTS: OutlierPolicy =
    OutlierPolicy { consecutive_failures: None, hosts_min: usize::MAX, ..OutlierPolicy::envoy() };

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use semel_core::evidence::AttemptEnd;
    use semel_core::policy::response_class::ResponseClass;
    use semel_core::policy::retry::Pushback;

    use super::*;

    fn health(count: u16, change: impl FnOnce(&mut UpstreamSettings)) -> Health {
        let endpoints = (0..count).map(|n| super::super::Endpoint::new("127.0.0.1", 9000 + n)).collect();
        let mut settings = UpstreamSettings::new(endpoints);
        change(&mut settings);
        Health::new(&settings, None)
    }

    fn fail(health: &Health, tried: Tried) -> Option<EndpointIndex> {
        let (index, mut lease) = health.pick(tried).ok()?;
        let end = AttemptEnd::Answered { status: StatusCode::BAD_GATEWAY, mark: None };
        lease.record(ResponseClass::of(&end), Pushback::Unsaid, clock::now());
        Some(index)
    }

    #[test]
    fn leaves_out_the_tried_until_all_are() {
        let health = health(3, |_| {});
        let mut tried = Tried::default();
        for _ in 0..3 {
            let (index, _lease) = health.pick(tried).unwrap();
            assert!(!tried.contains(index));
            tried.insert(index);
        }
        assert!(health.pick(tried).is_ok());
    }

    #[test]
    fn without_a_breaker_an_endpoint_that_fails_is_asked_again() {
        let health = health(1, |_| {});
        assert!((0..500).all(|_| fail(&health, Tried::default()).is_some()));
        assert!(health.states(clock::now()).all(|state| state == EndpointState::Serving));
    }

    #[test]
    fn a_breaker_that_is_open_refuses_and_says_when_to_come_back() {
        let health = health(1, |settings| settings.breaker = Some(BreakerPolicy::default()));
        assert!((0..5).all(|_| fail(&health, Tried::default()).is_some()));
        let refused = health.pick(Tried::default()).unwrap_err();
        assert!(refused.retry_after > std::time::Duration::from_secs(4), "{refused:?}");
        assert!(health.states(clock::now()).all(|state| state == EndpointState::BreakerOpen));
    }
}
