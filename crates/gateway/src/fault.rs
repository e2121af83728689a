//! Faults on purpose, at the place of the upstream: what is rehearsed is what this gateway and its callers make of them.

use std::time::Instant;

use http::{HeaderMap, Response, StatusCode};
use semel_core::policy::fault::{Fault, FaultPolicy};

use crate::body::ResponseBody;
use crate::clock;
use crate::random;
use crate::upstream::TransportError;

/// A route's faults.
#[derive(Debug)]
pub struct Faults {
    policy: FaultPolicy,
    route: String,
}

impl Faults {
    /// The faults of this route.
    #[must_use]
    pub fn new(policy: FaultPolicy, route: &str) -> Self {
        tracing::warn!(route, "FAULTS ARE INJECTED on this route, as its `fault` says");
        Self { policy, route: route.to_owned() }
    }

    /// Decides what happens to an attempt, says so in the log, and waits as long as it is delayed.
    ///
    /// # Errors
    /// Where the delay takes all the time there is, up to `by`: nothing is to be sent any more.
    pub async fn inject(&self, headers: &HeaderMap, by: Instant) -> Result<Fault, TransportError> {
        let fault = self.policy.decide(headers, [random::unit(), random::unit(), random::unit()]);
        if !fault.is_none() {
            let Fault { delay, abort, truncate } = fault;
            let delay_ms = delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
            let (route, abort) = (&*self.route, abort.map(|status| status.as_u16()));
            tracing::warn!(route, delay_ms, abort, truncate_bytes = truncate, "injecting a fault, as the policy says");
        }
        if let Some(delay) = fault.delay {
            let until = clock::now() + delay;
            tokio::time::sleep_until(until.min(by).into()).await;
            if until >= by {
                return Err(TransportError::HeadTimeout);
            }
        }
        Ok(fault)
    }
}

/// What an upstream that answers so would have said.
#[must_use]
pub fn aborted(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Empty);
    *response.status_mut() = status;
    response
}
