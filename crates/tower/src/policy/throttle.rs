//! Not asking who refuses nearly everybody.

use std::sync::Arc;

use semel_core::policy::throttle::{Throttle, ThrottlePolicy};

use super::{
    classify::ByResult,
    gate::{GateLayer, Gated},
};
use crate::clock;

/// A client throttle before a service: it refuses as large a share of calls as the service has failed lately. Refusals
/// are [`Throttled`](semel_core::policy::throttle::Throttled).
///
/// One layer is one throttle, which all services that it makes share. Unlike a breaker it is never shut: it suits a
/// service that is overloaded rather than down.
pub type ThrottleLayer<C = ByResult> = GateLayer<Throttle, C>;

/// The service that a [`ThrottleLayer`] makes.
pub type Throttling<S, C = ByResult> = Gated<S, Throttle, C>;

impl ThrottleLayer {
    /// A layer with a throttle of its own.
    #[must_use]
    pub fn with_policy(policy: ThrottlePolicy) -> Self {
        policy.into()
    }
}

impl<C: Default> From<ThrottlePolicy> for ThrottleLayer<C> {
    fn from(policy: ThrottlePolicy) -> Self {
        GateLayer::new(Arc::new(Throttle::new(policy, clock::now().into_std()))).classify(C::default())
    }
}
