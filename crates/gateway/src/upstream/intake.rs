//! What all runtimes share of an upstream: how much it is given, and to which endpoint.

use std::sync::Arc;

use semel_core::evidence::AttemptEnd;
use semel_core::policy::endpoint::{Endpoint, EndpointLease};
use semel_core::policy::response_class::ResponseClass;
use semel_core::policy::retry::Pushback;
use semel_core::policy::throttle::{Throttle, ThrottlePermit};
use semel_tower::policy::AdmissionGate;

use super::attempt::{EndpointIndex, TransportError, Tried};
use super::balance::Health;
use super::settings::UpstreamSettings;
use crate::clock;
use crate::random;

/// What all runtimes share of an upstream. None of them must go on asking where another knows that it is of no use.
#[derive(Debug)]
pub struct Intake {
    settings: UpstreamSettings,
    health: Health,
    throttle: Option<Arc<Throttle>>,
    admission: Option<Arc<AdmissionGate>>,
}

/// An attempt under way, and who will be told how it went.
#[derive(Debug)]
pub(super) struct Lease {
    /// Until it is dropped.
    endpoint: Option<EndpointLease<Arc<Endpoint>>>,
    throttle: Option<ThrottlePermit<Arc<Throttle>>>,
}

/// Where an attempt goes.
#[derive(Debug)]
pub struct Picked {
    pub(super) endpoint: EndpointIndex,
    pub(super) lease: Lease,
}

impl Intake {
    /// Nothing is known yet of this upstream, but what `former` knew under the same policies.
    #[must_use]
    pub fn new(settings: UpstreamSettings, former: Option<&Self>) -> Self {
        let throttle = former.filter(|former| former.settings.throttle == settings.throttle);
        let throttle = match throttle {
            Some(former) => former.throttle.clone(),
            None => settings.throttle.map(|policy| Arc::new(Throttle::new(policy, clock::now()))),
        };
        let admission = former.filter(|former| former.settings.admission == settings.admission);
        let admission = match admission {
            Some(former) => former.admission.clone(),
            None => settings.admission.map(|policy| Arc::new(AdmissionGate::new(policy))),
        };
        let health = Health::new(&settings, former.map(|former| (&former.settings, &former.health)));
        Self { settings, health, throttle, admission }
    }

    /// The upstream that it belongs to.
    #[must_use]
    pub fn settings(&self) -> &UpstreamSettings {
        &self.settings
    }

    /// What is known of its endpoints.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The probability with which an attempt is refused here, where that may be.
    #[must_use]
    pub fn rejection_probability(&self) -> Option<f64> {
        self.throttle.as_ref().map(|throttle| throttle.rejection_probability(clock::now()))
    }

    /// Where calls are let in one by one, if they are.
    #[must_use]
    pub fn gate(&self) -> Option<&Arc<AdmissionGate>> {
        self.admission.as_ref()
    }

    /// Chooses for the next attempt of a call that has tried those endpoints before.
    ///
    /// # Errors
    /// Where nothing is to be sent.
    pub fn pick(&self, tried: Tried) -> Result<Picked, TransportError> {
        // First, so that a refusal takes no breaker's only probe.
        let throttle = match &self.throttle {
            Some(throttle) => Some(
                Throttle::try_acquire(Arc::clone(throttle), clock::now(), random::unit())
                    .map_err(|_| TransportError::Throttled)?,
            ),
            None => None,
        };
        let picked = self.health.pick(tried);
        let (endpoint, lease) =
            picked.map_err(|refused| TransportError::BreakerOpen { retry_after: refused.retry_after })?;
        Ok(Picked { endpoint, lease: Lease { endpoint: Some(lease), throttle } })
    }
}

impl Picked {
    /// Where it goes.
    #[must_use]
    pub fn endpoint(&self) -> EndpointIndex {
        self.endpoint
    }
}

impl Lease {
    /// The attempt ended like this. The call stays under way until the lease is dropped.
    pub(super) fn record(&mut self, end: &AttemptEnd, pushback: Pushback) {
        let (class, now) = (ResponseClass::of(end), clock::now());
        self.endpoint.iter_mut().for_each(|endpoint| endpoint.record(class, pushback, now));
        if let Some(permit) = self.throttle.take() {
            permit.record(class, now);
        }
    }
}

/// An attempt that nobody waited for, such as a hedge's loser, took at least that long.
impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.abandon(clock::now());
        }
    }
}
