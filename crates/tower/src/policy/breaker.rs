//! Not asking who has failed too often.

use std::sync::Arc;

use semel_core::policy::breaker::{Breaker, BreakerPolicy};

use super::{
    classify::ByResult,
    gate::{GateLayer, Gated},
};
use crate::{clock, random};

/// A circuit breaker before a service. Refusals are [`BreakerOpen`](semel_core::policy::breaker::BreakerOpen).
///
/// One layer is one breaker, which all services that it makes share: one layer for each endpoint, or upstream.
///
/// ```
/// use semel_core::policy::breaker::{BreakerOpen, BreakerPolicy};
/// use semel_tower::policy::BreakerLayer;
/// use tower::{ServiceBuilder, ServiceExt as _};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let layer = BreakerLayer::with_policy(BreakerPolicy::default());
/// let service = ServiceBuilder::new().layer(layer).service_fn(async |_: ()| Err::<(), _>(std::io::Error::other("down")));
/// for _ in 0..5 {
///     service.clone().oneshot(()).await.unwrap_err().downcast::<std::io::Error>().unwrap();
/// }
/// service.clone().oneshot(()).await.unwrap_err().downcast::<BreakerOpen>().unwrap();
/// # }
/// ```
pub type BreakerLayer<C = ByResult> = GateLayer<Breaker, C>;

/// The service that a [`BreakerLayer`] makes.
pub type Breaking<S, C = ByResult> = Gated<S, Breaker, C>;

impl BreakerLayer {
    /// A layer with a breaker of its own.
    #[must_use]
    pub fn with_policy(policy: BreakerPolicy) -> Self {
        policy.into()
    }
}

impl<C: Default> From<BreakerPolicy> for BreakerLayer<C> {
    fn from(policy: BreakerPolicy) -> Self {
        let breaker = Breaker::new(policy, clock::now().into_std(), random::next_u64());
        GateLayer::new(Arc::new(breaker)).classify(C::default())
    }
}
