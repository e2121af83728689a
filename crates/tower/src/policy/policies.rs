//! Policies together, in the one order that makes sense.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use semel_core::policy::{
    admission::AdmissionPolicy, budget::RetryBudget, fault::FaultPolicy, hedge::HedgePolicy, retry::RetryPolicy,
};
use tower_layer::{Identity, Layer, Stack};

use super::{
    AdmissionLayer, BreakerLayer, BulkheadLayer, DeadlineLayer, FaultLayer, HedgeLayer, ProblemLayer, RateLimitLayer,
    RetryLayer, ThrottleLayer, TimeoutLayer,
    place::{self, Before},
    protocol::{AnyCall, Http, Protocol},
    retry::window_budget,
};
use crate::IdempotencyLayer;

/// Any of the policies, in their order: you choose values, never the order.
///
/// From the caller inwards:
///
/// | | | why here |
/// |---|---|---|
/// | [`answering`](Self::answering) | refusals become HTTP answers (servers) | above all that can refuse |
/// | [`deadline`](Self::deadline) | how long the caller waits | everything after it can give up in time |
/// | [`rate_limit`](Self::rate_limit) | how often a caller may ask | a refusal must not burn a key, nor cost a look into the ledger |
/// | [`idempotency`](Self::idempotency) | a key's answer is replayed | one key is one call: replays are not shed, retries live inside |
/// | [`admission`](Self::admission) | how much is taken on, and a short queue | one place for a call, however often it is attempted |
/// | [`total_timeout`](Self::total_timeout) | the whole call | retries and their waits included |
/// | [`retry`](Self::retry) | asking again | above what chooses an endpoint, so that it can move |
/// | [`hedge`](Self::hedge) | asking twice | out of the retries' budget |
/// | [`attempt_timeout`](Self::attempt_timeout) | one attempt | a slow attempt leaves time for another |
/// | [`fault`](Self::fault) | rehearsals | callers and retries see them; the breaker, which others share, does not |
/// | [`throttle`](Self::throttle) | sparing who refuses nearly everybody | sees raw attempts |
/// | [`breaker`](Self::breaker) | leaving alone who is down | sees raw attempts, timeouts included |
/// | [`bulkhead`](Self::bulkhead) | what is in flight there | counts what is really sent |
///
/// All are optional. Another order does not compile:
///
/// ```compile_fail,E0277
/// # use semel_core::policy::{breaker::BreakerPolicy, retry::RetryPolicy};
/// # use semel_tower::policy::Policies;
/// // A breaker around retries would count calls for attempts, and retries would not know that it is open.
/// let wrong = Policies::http().breaker(BreakerPolicy::default()).retry(RetryPolicy::default());
/// ```
///
/// It is a layer itself: for [`layer`](Layer::layer), `tower::ServiceBuilder`, or axum's `Router::layer`. The services
/// that it makes share its state (breaker, budget, limits); their type reads like the table:
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use http::{Request, Response};
/// use semel_core::policy::{breaker::BreakerPolicy, retry::RetryPolicy};
/// use semel_tower::policy::{Breaking, ByStatus, Deadlined, HttpRepeat, Policies, Retry, Timeout};
/// use tower::{Layer as _, ServiceExt as _, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), semel_tower::BoxError> {
/// let policies = Policies::http()
///     .deadline(Duration::from_secs(10))
///     .retry(RetryPolicy::default())
///     .attempt_timeout(Duration::from_secs(3))
///     .breaker(BreakerPolicy::default());
///
/// type Polite<S> = Deadlined<Retry<Timeout<Breaking<S, ByStatus>>, HttpRepeat>>;
/// let service: Polite<_> = policies.layer(service_fn(async |request: Request<()>| {
///     assert_eq!(request.headers()["semel-timeout"], "9999");
///     Ok::<_, Infallible>(Response::new(()))
/// }));
/// assert_eq!(service.oneshot(Request::new(())).await?.status(), 200);
/// # Ok(())
/// # }
/// ```
///
/// Several endpoints are a [`Balance`](super::Balance)'s business, which is the inner service then: each of its endpoints
/// has a breaker of its own, so there is none in the stack.
#[derive(Debug)]
#[must_use = "policies do nothing until a service is under them"]
pub struct Policies<P, At, L> {
    protocol: P,
    budget: Arc<RetryBudget>,
    /// Whether a retry layer counts the calls of the budget.
    has_retry: bool,
    total: Option<Duration>,
    layers: L,
    at: PhantomData<fn() -> At>,
}

impl Policies<Http, place::Caller, Identity> {
    /// For HTTP services.
    pub fn http() -> Self {
        Self::of(Http::default())
    }
}

impl Policies<AnyCall, place::Caller, Identity> {
    /// For services of any request that can be cloned and may be repeated.
    pub fn any() -> Self {
        Self::of(AnyCall)
    }
}

impl<P: Protocol> Policies<P, place::Caller, Identity> {
    /// For services of this protocol.
    pub fn of(protocol: P) -> Self {
        let (layers, at) = (Identity::new(), PhantomData);
        Self { protocol, budget: window_budget(), has_retry: false, total: None, layers, at }
    }
}

impl<P: Clone, At, L: Clone> Clone for Policies<P, At, L> {
    fn clone(&self) -> Self {
        let (protocol, budget, layers) = (self.protocol.clone(), Arc::clone(&self.budget), self.layers.clone());
        Self { protocol, budget, has_retry: self.has_retry, total: self.total, layers, at: PhantomData }
    }
}

impl<S, P, At, L: Layer<S>> Layer<S> for Policies<P, At, L> {
    type Service = L::Service;

    fn layer(&self, inner: S) -> L::Service {
        self.layers.layer(inner)
    }
}

/// `L` under what is already there, at place `At`.
type Within<P, At, L, Outer> = Policies<P, At, Stack<L, Outer>>;

impl<P, At, L> Policies<P, At, L> {
    /// Any other layer, right here: for traces or metrics, say, or a policy of your own.
    pub fn layer_here<M>(self, layer: M) -> Within<P, At, M, L> {
        self.within(layer)
    }

    fn within<At2, M>(self, layer: M) -> Within<P, At2, M, L> {
        let Self { protocol, budget, has_retry, total, layers, .. } = self;
        Policies { protocol, budget, has_retry, total, layers: Stack::new(layer, layers), at: PhantomData }
    }
}

impl<P: Protocol, At, L> Policies<P, At, L> {
    /// Refusals and timeouts become HTTP answers, as problem details: see [`ProblemLayer`].
    pub fn answering(self) -> Within<P, place::Answers, ProblemLayer, L>
    where
        At: Before<place::Answers>,
    {
        self.within(ProblemLayer::default())
    }

    /// The time that an HTTP caller gives, at most `total`: see [`DeadlineLayer`].
    pub fn deadline(self, total: Duration) -> Within<P, place::Deadline, DeadlineLayer, L>
    where
        At: Before<place::Deadline>,
    {
        self.within(DeadlineLayer::new(total))
    }

    /// Limits of a caller, and of all together: see [`RateLimitLayer`].
    pub fn rate_limit<K, F, A, H>(
        self,
        layer: RateLimitLayer<K, F, A, H>,
    ) -> Within<P, place::RateLimit, RateLimitLayer<K, F, A, H>, L>
    where
        At: Before<place::RateLimit>,
    {
        self.within(layer)
    }

    /// A key's effect happens once: see [`IdempotencyLayer`]. A refusal further in leaves the key usable.
    pub fn idempotency(self, layer: IdempotencyLayer) -> Within<P, place::Ledger, IdempotencyLayer, L>
    where
        At: Before<place::Ledger>,
    {
        self.within(layer)
    }

    /// A limit on calls in flight and a queue before it: see [`AdmissionLayer`].
    pub fn admission(self, policy: AdmissionPolicy) -> Within<P, place::Admission, AdmissionLayer<P::Rank, P::Hold>, L>
    where
        At: Before<place::Admission>,
    {
        self.within(policy.into())
    }

    /// The same with a layer of your own: to look at it, or for [ranks](AdmissionLayer::rank_by).
    pub fn admission_by<F>(
        self,
        layer: AdmissionLayer<F, P::Hold>,
    ) -> Within<P, place::Admission, AdmissionLayer<F, P::Hold>, L>
    where
        At: Before<place::Admission>,
    {
        self.within(layer)
    }

    /// So much time for a call with all its attempts: see [`TimeoutLayer`]. Retries do not wait past it.
    pub fn total_timeout(mut self, after: Duration) -> Within<P, place::TotalTimeout, TimeoutLayer, L>
    where
        At: Before<place::TotalTimeout>,
    {
        self.total = Some(after);
        self.within(TimeoutLayer::new(after))
    }

    /// Out of which budget retries and hedges are made. Default: a fifth of the calls of 10 s, and ten a second.
    pub fn budget(mut self, budget: Arc<RetryBudget>) -> Self
    where
        At: Before<place::Retry>,
    {
        self.budget = budget;
        self
    }

    /// Failed calls are repeated where that is safe: see [`RetryLayer`].
    pub fn retry(mut self, policy: RetryPolicy) -> Within<P, place::Retry, RetryLayer<P::Repeat>, L>
    where
        At: Before<place::Retry>,
        P::Repeat: Clone,
    {
        self.has_retry = true;
        let layer = RetryLayer::new(policy, Arc::clone(&self.budget), self.protocol.repeat());
        let layer = self.total.map_or(layer.clone(), |total| layer.total(total));
        self.within(layer)
    }

    /// Slow calls get a second attempt, out of the budget of retries: see [`HedgeLayer`].
    pub fn hedge(self, policy: HedgePolicy) -> Within<P, place::Hedge, HedgeLayer<P::Repeat>, L>
    where
        At: Before<place::Hedge>,
    {
        let (budget, repeat) = (Arc::clone(&self.budget), self.protocol.repeat());
        let layer = match self.has_retry {
            true => HedgeLayer::sharing(policy, budget, repeat),
            false => HedgeLayer::new(policy, budget, repeat),
        };
        self.within(layer)
    }

    /// So much time for each attempt: see [`TimeoutLayer`].
    pub fn attempt_timeout(self, after: Duration) -> Within<P, place::AttemptTimeout, TimeoutLayer, L>
    where
        At: Before<place::AttemptTimeout>,
    {
        self.within(TimeoutLayer::new(after))
    }

    /// Faults on purpose: see [`FaultLayer`].
    pub fn fault(self, policy: FaultPolicy) -> Within<P, place::Fault, FaultLayer, L>
    where
        At: Before<place::Fault>,
    {
        self.within(FaultLayer::new(policy))
    }

    /// As large a share of attempts as has failed lately is not sent: a policy, or a [`ThrottleLayer`] to look at.
    pub fn throttle(
        self,
        throttle: impl Into<ThrottleLayer<P::Classify>>,
    ) -> Within<P, place::Throttle, ThrottleLayer<P::Classify>, L>
    where
        At: Before<place::Throttle>,
    {
        self.within(throttle.into())
    }

    /// Who fails too often is left alone for a while: a policy, or a [`BreakerLayer`] to look at.
    pub fn breaker(
        self,
        breaker: impl Into<BreakerLayer<P::Classify>>,
    ) -> Within<P, place::Breaker, BreakerLayer<P::Classify>, L>
    where
        At: Before<place::Breaker>,
    {
        self.within(breaker.into())
    }

    /// So many attempts in flight at most: a number, or a [`BulkheadLayer`] to look at.
    pub fn bulkhead(
        self,
        bulkhead: impl Into<BulkheadLayer<P::Hold>>,
    ) -> Within<P, place::Bulkhead, BulkheadLayer<P::Hold>, L>
    where
        At: Before<place::Bulkhead>,
    {
        self.within(bulkhead.into())
    }
}
