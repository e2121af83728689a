//! One of several services for each call.

use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use pin_project_lite::pin_project;
use semel_core::policy::{
    balance::{BalancePolicy, Balancer, NoEndpoint},
    breaker::BreakerPolicy,
    endpoint::{Endpoint, EndpointLease},
    outlier::OutlierPolicy,
    response_class::ResponseClass,
    retry::Pushback,
};
use tower_service::Service;

use super::{
    cancel::{self, Why},
    classify::Classify,
    hold::{Held, Hold},
    protocol::{AnyCall, Http, Protocol},
    tried::TriedBy,
};
use crate::{BoxError, clock, random};

/// Several services that do the same, as one: each call goes to the better of two by latency and load, past those that
/// are down. It stands where a stack of layers ends.
///
/// Each endpoint has a circuit breaker of its own and is left out when it does worse than its peers; a retry and a hedge
/// go to one that the call has not tried. See [`Balancer`]. Refusals are [`NoEndpoint`].
///
/// It is always ready: which service a call goes to is decided when it is made, and then it waits for that one. A call is
/// under way, and its endpoint loaded, until its answer's body ends.
///
/// ```
/// use http::{Request, Response};
/// use semel_core::policy::retry::RetryPolicy;
/// use semel_tower::policy::{Balance, Policies};
/// use tower::{Layer as _, ServiceExt as _, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), semel_tower::BoxError> {
/// let endpoint = |status: u16| {
///     service_fn(move |_: Request<()>| async move {
///         Response::builder().status(status).body(String::new())
///     })
/// };
/// let balance = Balance::http([endpoint(503), endpoint(200)]);
/// let service = Policies::http().retry(RetryPolicy::default()).layer(balance);
/// for _ in 0..100 {
///     // Whoever is asked first, the retry goes to the other one.
///     assert_eq!(service.clone().oneshot(Request::new(())).await?.status(), 200);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Balance<S, P = Http> {
    services: Arc<[S]>,
    shared: Arc<Shared>,
    protocol: PhantomData<fn() -> P>,
}

/// How a [`Balance`] chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BalancePolicies {
    /// How calls are spread.
    pub balance: BalancePolicy,
    /// Each endpoint's breaker.
    pub breaker: BreakerPolicy,
    /// Who is left out for doing worse than others.
    pub outlier: OutlierPolicy,
}

#[derive(Debug)]
struct Shared {
    balancer: Balancer,
    endpoints: Box<[Arc<Endpoint>]>,
}

impl<S> Balance<S> {
    /// HTTP services, chosen from by the default policies.
    #[must_use]
    pub fn http(services: impl IntoIterator<Item = S>) -> Self {
        Self::with(BalancePolicies::default(), services)
    }
}

impl<S> Balance<S, AnyCall> {
    /// Services of any kind, chosen from by the default policies. A call that is attempted again may go where it was.
    #[must_use]
    pub fn any(services: impl IntoIterator<Item = S>) -> Self {
        Self::with(BalancePolicies::default(), services)
    }
}

impl<S, P> Balance<S, P> {
    /// Services, chosen from by these policies. More than [`ENDPOINTS_MAX`](semel_core::policy::balance::ENDPOINTS_MAX)
    /// are not looked at.
    #[must_use]
    pub fn with(policies: BalancePolicies, services: impl IntoIterator<Item = S>) -> Self {
        let services: Arc<[S]> = services.into_iter().collect();
        let now = clock::now().into_std();
        let BalancePolicies { balance, breaker, outlier } = policies;
        let endpoint = |_: &S| Arc::new(Endpoint::new(breaker, &outlier, now, random::next_u64()));
        let endpoints = services.iter().map(endpoint).collect();
        let balancer = Balancer::new(balance, outlier, now);
        Self { services, shared: Arc::new(Shared { balancer, endpoints }), protocol: PhantomData }
    }

    /// The endpoints, in the services' order: to look at, and to tell what health checks find.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.shared.endpoints
    }
}

impl<S, P> Clone for Balance<S, P> {
    fn clone(&self) -> Self {
        Self { services: Arc::clone(&self.services), shared: Arc::clone(&self.shared), protocol: PhantomData }
    }
}

impl<S, P> fmt::Debug for Balance<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl<S, P, Req> Service<Req> for Balance<S, P>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    P: Protocol,
    P::Classify: Classify<S::Response, S::Error> + TriedBy<Req>,
    P::Hold: Hold<S::Response>,
{
    type Response = <P::Hold as Hold<S::Response>>::Answer<EndpointLease<Arc<Endpoint>>>;
    type Error = BoxError;
    type Future = BalanceFuture<S, Req, P>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let tried = P::Classify::default().tried(&request);
        let was_tried = |index| tried.as_ref().is_some_and(|tried| tried.contains(index));
        let Shared { balancer, endpoints } = &*self.shared;
        let begun = clock::now().into_std();
        let picked = balancer.pick(endpoints, was_tried, begun, random::next_u64());
        let (state, lease) = match picked {
            Ok(picked) => {
                if let Some(tried) = &tried {
                    tried.insert(picked.index);
                }
                let service = self.services[picked.index].clone();
                (State::Readying { service, request: Some(request) }, Some(picked.lease))
            }
            Err(none) => (State::Refused { none }, None),
        };
        BalanceFuture { state, lease: Leased { lease, begun }, protocol: PhantomData }
    }
}

impl Held for EndpointLease<Arc<Endpoint>> {
    fn keep(&mut self) {}
}

/// The lease of a call until it is answered.
struct Leased {
    lease: Option<EndpointLease<Arc<Endpoint>>>,
    begun: Instant,
}

impl Drop for Leased {
    fn drop(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        let (why, now) = (cancel::why(), clock::now().into_std());
        if why.blames(self.begun, now) {
            lease.record(ResponseClass::Failure, Pushback::Unsaid, now);
        } else if why == Why::Overtaken {
            lease.abandon(now);
        }
    }
}

pin_project! {
    /// The future of a [`Balance`].
    pub struct BalanceFuture<S: Service<Req>, Req, P> {
        #[pin]
        state: State<S, Req>,
        lease: Leased,
        protocol: PhantomData<fn() -> P>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<S: Service<Req>, Req> {
        Refused { none: NoEndpoint },
        // Waits until the service is ready.
        Readying { service: S, request: Option<Req> },
        Running { #[pin] call: S::Future },
    }
}

impl<S, Req, P> Future for BalanceFuture<S, Req, P>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    P: Protocol,
    P::Classify: Classify<S::Response, S::Error>,
    P::Hold: Hold<S::Response>,
{
    type Output = Result<<P::Hold as Hold<S::Response>>::Answer<EndpointLease<Arc<Endpoint>>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let result = match this.state.as_mut().project() {
                Projected::Refused { none } => return Poll::Ready(Err((*none).into())),
                Projected::Readying { service, request } => match ready!(service.poll_ready(cx)) {
                    Ok(()) => {
                        let Some(request) = request.take() else { return Poll::Pending };
                        let call = service.call(request);
                        this.state.set(State::Running { call });
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Projected::Running { call } => ready!(call.poll(cx)),
            };
            // Gone once the future has completed.
            let Some(mut lease) = this.lease.lease.take() else { return Poll::Pending };
            let (classify, now) = (P::Classify::default(), clock::now().into_std());
            let class = classify.class(result.as_ref());
            let pushback = match class {
                ResponseClass::Success | ResponseClass::Ignored => Pushback::Unsaid,
                ResponseClass::Failure | ResponseClass::Throttled => classify.pushback(result.as_ref()),
            };
            lease.record(class, pushback, now);
            return Poll::Ready(result.map(|answer| P::Hold::hold(answer, lease)).map_err(Into::into));
        }
    }
}
