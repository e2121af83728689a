//! A second attempt beside a slow first one.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use semel_core::policy::{
    budget::RetryBudget,
    hedge::{Hedge, HedgePolicy, HedgeStep, Latencies, Leg},
    ownership::AttemptMark,
    retry::Repeatable,
};
use tokio::time::{Instant, Sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    cancel::{Why, cancel},
    refusal::RefusedLater,
    repeat::{Always, HttpRepeat, Repeat},
    retry::window_budget,
};
use crate::{BoxError, clock};

/// Sends a second attempt when the first takes longer than nearly all calls did lately, or fails; the first success
/// wins and the other attempt is cancelled.
///
/// Only calls that may be repeated are hedged, and out of a budget: under a [`RetryLayer`](super::RetryLayer)
/// [its own](Self::sharing). The service under it should send the second attempt elsewhere: a balancer, say.
#[derive(Debug)]
pub struct HedgeLayer<P = Always> {
    shared: Arc<Shared<P>>,
}

/// The service that a [`HedgeLayer`] makes.
#[derive(Debug)]
pub struct Hedged<S, P> {
    inner: S,
    shared: Arc<Shared<P>>,
}

#[derive(Debug)]
struct Shared<P> {
    policy: HedgePolicy,
    latencies: Latencies,
    budget: Arc<RetryBudget>,
    /// Whether its calls count in the budget here, and not further out.
    counts_calls: bool,
    repeat: P,
}

impl HedgeLayer {
    /// For requests that can be cloned and may always be repeated; errors are failures, responses are not.
    #[must_use]
    pub fn with_policy(policy: HedgePolicy) -> Self {
        Self::new(policy, window_budget(), Always)
    }
}

impl HedgeLayer<HttpRepeat> {
    /// For HTTP services: see [`HttpRepeat`].
    #[must_use]
    pub fn http(policy: HedgePolicy) -> Self {
        Self::new(policy, window_budget(), HttpRepeat::default())
    }
}

impl<P> HedgeLayer<P> {
    /// By these rules, out of this budget, in which every call counts.
    #[must_use]
    pub fn new(policy: HedgePolicy, budget: Arc<RetryBudget>, repeat: P) -> Self {
        Self::with(policy, budget, true, repeat)
    }

    /// Under a [`RetryLayer`](super::RetryLayer), out of its budget. Calls count there: counted here too, each would
    /// allow for retries twice, and a retry for more of them.
    #[must_use]
    pub fn sharing(policy: HedgePolicy, budget: Arc<RetryBudget>, repeat: P) -> Self {
        Self::with(policy, budget, false, repeat)
    }

    fn with(policy: HedgePolicy, budget: Arc<RetryBudget>, counts_calls: bool, repeat: P) -> Self {
        let latencies = Latencies::new(clock::now().into_std(), policy.window);
        Self { shared: Arc::new(Shared { policy, latencies, budget, counts_calls, repeat }) }
    }

    /// What is known of latencies, to look at.
    #[must_use]
    pub fn latencies(&self) -> &Latencies {
        &self.shared.latencies
    }
}

impl<P> Clone for HedgeLayer<P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S: Clone, P> Clone for Hedged<S, P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S, P> Layer<S> for HedgeLayer<P> {
    type Service = Hedged<S, P>;

    fn layer(&self, inner: S) -> Hedged<S, P> {
        Hedged { inner, shared: Arc::clone(&self.shared) }
    }
}

impl<S, P, Req> Service<Req> for Hedged<S, P>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    P: Repeat<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = HedgeFuture<S, Req, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let now = clock::now().into_std();
        if shared.counts_calls {
            shared.budget.record_call(now);
        }
        let repeatable = match shared.repeat.attempts_here(&request, 2) {
            // Somebody before us retries, or hedges.
            ..2 => Repeatable::IfNotExecuted,
            _ => shared.repeat.repeatable(&request),
        };
        let hedge = Hedge::begin(&shared.policy, &shared.latencies, repeatable, now);
        let spare = hedge.fires_at().and_then(|_| {
            shared.repeat.prepare(&mut request);
            shared.repeat.replay(&request)
        });
        if spare.is_some() {
            shared.repeat.begin(&mut request, AttemptMark::new(1, 2));
        }
        // The one that is ready is called; its clone, which may not be, waits for the next call.
        let clone = self.inner.clone();
        let mut service = std::mem::replace(&mut self.inner, clone);
        let first = Attempt::Running { call: service.call(request) };
        HedgeFuture { shared, service, spare, hedge, first, extra: Extra::None, timer: Timer::Unset }
    }
}

pin_project! {
    /// A call and its hedge. Dropped, it cancels both attempts.
    pub struct HedgeFuture<S, Req, P>
    where
        S: Service<Req>,
    {
        shared: Arc<Shared<P>>,
        service: S,
        // What the extra attempt would send.
        spare: Option<Req>,
        hedge: Hedge,
        #[pin]
        first: Attempt<S::Future>,
        extra: Extra<S::Future>,
        #[pin]
        timer: Timer,
    }
}

pin_project! {
    #[project = Projected]
    enum Attempt<F> {
        Running { #[pin] call: F },
        Over,
    }
}

/// The hedge.
enum Extra<F> {
    None,
    /// Waits until the service is ready for it.
    Readying,
    /// Boxed: a call that is not hedged need not carry it along.
    Running(Pin<Box<F>>),
}

pin_project! {
    #[project = TimerProjected]
    enum Timer {
        Unset,
        Set { #[pin] sleep: Sleep },
    }
}

impl<S, Req, P> Future for HedgeFuture<S, Req, P>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    P: Repeat<Req, S::Response, S::Error>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Projected::Running { call } = this.first.as_mut().project()
            && let Poll::Ready(result) = call.poll(cx)
        {
            this.first.set(Attempt::Over);
            let can_fire = this.spare.is_some();
            match this.shared.ended(this.hedge, Leg::First, result.as_ref()) {
                HedgeStep::Fire if can_fire => *this.extra = Extra::Readying,
                HedgeStep::Wait => {}
                HedgeStep::Fire | HedgeStep::Finish => {
                    cancel(Why::Overtaken, || *this.extra = Extra::None);
                    return Poll::Ready(result.map_err(Into::into));
                }
            }
        } else if poll_timer(this.timer.as_mut(), this.hedge, this.spare.is_some(), cx).is_ready()
            && this.hedge.fire(&this.shared.budget, clock::now().into_std())
        {
            *this.extra = Extra::Readying;
        }
        if let Extra::Readying = this.extra {
            match this.service.poll_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {
                    // There is one: without it the hedge would not have fired.
                    let Some(mut request) = this.spare.take() else { return Poll::Pending };
                    this.shared.repeat.begin(&mut request, AttemptMark::new(2, 2));
                    *this.extra = Extra::Running(Box::pin(this.service.call(request)));
                }
                Poll::Ready(Err(error)) => {
                    return this.shared.extra_ended(this.hedge, this.first, this.extra, Err(error));
                }
            }
        }
        if let Extra::Running(call) = this.extra
            && let Poll::Ready(result) = call.as_mut().poll(cx)
        {
            return this.shared.extra_ended(this.hedge, this.first, this.extra, result);
        }
        Poll::Pending
    }
}

/// Ready once, when the extra attempt is due.
fn poll_timer(mut timer: Pin<&mut Timer>, hedge: &Hedge, can_fire: bool, cx: &mut Context<'_>) -> Poll<()> {
    let Some(at) = hedge.fires_at().filter(|_| can_fire) else { return Poll::Pending };
    if let TimerProjected::Unset = timer.as_mut().project() {
        timer.set(Timer::Set { sleep: tokio::time::sleep_until(Instant::from_std(at)) });
    }
    match timer.project() {
        TimerProjected::Unset => Poll::Pending,
        TimerProjected::Set { sleep } => sleep.poll(cx),
    }
}

impl<P> Shared<P> {
    fn ended<Req, R, E>(&self, hedge: &mut Hedge, leg: Leg, result: Result<&R, &E>) -> HedgeStep
    where
        P: Repeat<Req, R, E>,
    {
        let (class, pushback) = (self.repeat.class(result), self.repeat.pushback(result));
        let now = clock::now().into_std();
        let step = hedge.ended(leg, class, pushback, &self.budget, now);
        if step == HedgeStep::Finish
            && let Some(sample) = hedge.sample(now)
        {
            self.latencies.record(sample, now);
        }
        step
    }

    /// The extra attempt is over: so is the call, unless the first may still succeed.
    fn extra_ended<F, Req, R, E>(
        &self,
        hedge: &mut Hedge,
        mut first: Pin<&mut Attempt<F>>,
        extra: &mut Extra<F>,
        result: Result<R, E>,
    ) -> Poll<Result<R, BoxError>>
    where
        P: Repeat<Req, R, E>,
        E: Into<BoxError>,
    {
        *extra = Extra::None;
        match self.ended(hedge, Leg::Extra, result.as_ref()) {
            HedgeStep::Wait => Poll::Pending,
            HedgeStep::Fire | HedgeStep::Finish => {
                // The loser is cancelled now, not when the caller drops this future.
                cancel(Why::Overtaken, || first.set(Attempt::Over));
                // Who fires an extra attempt has sent the first.
                Poll::Ready(result.map_err(|error| RefusedLater::unless_certain(error.into(), true)))
            }
        }
    }
}
