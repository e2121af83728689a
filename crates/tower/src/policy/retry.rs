//! Asking again, within bounds.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;
use semel_core::{
    evidence::{AttemptEnd, Verdict},
    policy::{
        budget::{RetryBudget, WindowBudget},
        deadline::Deadline,
        retry::{Ended, Pushback, Retries, RetryDecision, RetryPolicy, StopReason},
    },
};
use tokio::time::Sleep;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    refusal::RefusedLater,
    repeat::{Always, HttpRepeat, Repeat},
};
use crate::{BoxError, clock, random};

/// Repeats calls that failed: where that is safe, so often and after such waits as a [`RetryPolicy`] says, within the
/// caller's deadline and a budget that all calls share.
///
/// It belongs *around* the layers that watch single attempts (breaker, per-attempt timeout, balancer).
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use semel_core::policy::retry::RetryPolicy;
/// use semel_tower::policy::RetryLayer;
/// use tower::{ServiceBuilder, ServiceExt as _};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// static CALLS: AtomicU32 = AtomicU32::new(0);
/// let service = ServiceBuilder::new().layer(RetryLayer::http(RetryPolicy::default())).service_fn(
///     async |request: http::Request<String>| {
///         CALLS.fetch_add(1, Ordering::Relaxed);
///         let status = if request.headers()["semel-attempt"] == "2/3" { 200 } else { 503 };
///         Ok::<_, std::convert::Infallible>(http::Response::builder().status(status).body(()).unwrap())
///     },
/// );
/// let get = http::Request::get("/").body(String::new()).unwrap();
/// assert_eq!(service.clone().oneshot(get).await.unwrap().status(), 200);
/// // A POST may have been executed: it is not repeated.
/// let post = http::Request::post("/").body(String::new()).unwrap();
/// assert_eq!(service.oneshot(post).await.unwrap().status(), 503);
/// assert_eq!(CALLS.load(Ordering::Relaxed), 3);
/// # }
/// ```
#[derive(Debug)]
pub struct RetryLayer<P = Always> {
    shared: Arc<Shared<P>>,
}

/// The service that a [`RetryLayer`] makes.
#[derive(Debug)]
pub struct Retry<S, P> {
    inner: S,
    shared: Arc<Shared<P>>,
}

#[derive(Debug)]
struct Shared<P> {
    policy: RetryPolicy,
    budget: Arc<RetryBudget>,
    repeat: P,
    /// None: there is no bound.
    total: Option<Duration>,
    /// When the layer was made.
    begun: Instant,
    /// Later than any call's end.
    never: Deadline,
}

impl RetryLayer {
    /// For requests that can be cloned and may always be repeated; errors are failures, responses are not.
    #[must_use]
    pub fn with_policy(policy: RetryPolicy) -> Self {
        Self::new(policy, window_budget(), Always)
    }
}

impl RetryLayer<HttpRepeat> {
    /// For HTTP services: see [`HttpRepeat`].
    #[must_use]
    pub fn http(policy: RetryPolicy) -> Self {
        Self::new(policy, window_budget(), HttpRepeat::default())
    }
}

impl<P> RetryLayer<P> {
    /// By these rules, out of this budget, which other layers may share.
    #[must_use]
    pub fn new(policy: RetryPolicy, budget: Arc<RetryBudget>, repeat: P) -> Self {
        let begun = clock::now().into_std();
        let never = Deadline::of_call(begun, Duration::MAX, None);
        Self { shared: Arc::new(Shared { policy, budget, repeat, total: None, begun, never }) }
    }

    /// No repeat begins later than this after the call began, whatever deadline the request has. Default: no bound.
    #[must_use]
    pub fn total(self, total: Duration) -> Self
    where
        P: Clone,
    {
        let Shared { policy, budget, repeat, begun, never, .. } = &*self.shared;
        let (budget, repeat) = (Arc::clone(budget), repeat.clone());
        let (policy, begun, never) = (*policy, *begun, *never);
        Self { shared: Arc::new(Shared { policy, budget, repeat, total: Some(total), begun, never }) }
    }

    /// The budget, to look at and to share.
    #[must_use]
    pub fn budget(&self) -> &Arc<RetryBudget> {
        &self.shared.budget
    }
}

/// A fifth of the calls, and ten retries a second.
pub(super) fn window_budget() -> Arc<RetryBudget> {
    let budget = WindowBudget::new(clock::now().into_std(), WindowBudget::RATIO, WindowBudget::RETRIES_PER_SECOND_MIN);
    Arc::new(RetryBudget::Window(budget))
}

impl<P> Clone for RetryLayer<P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S: Clone, P> Clone for Retry<S, P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S, P> Layer<S> for RetryLayer<P> {
    type Service = Retry<S, P>;

    fn layer(&self, inner: S) -> Retry<S, P> {
        Retry { inner, shared: Arc::clone(&self.shared) }
    }
}

impl<S, P, Req> Service<Req> for Retry<S, P>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    P: Repeat<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RetryFuture<S, Req, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let read_clock = || clock::now().into_std();
        let mut deadline = shared.never;
        if let Some(total) = shared.total {
            let now = read_clock();
            shared.budget.record_call(now);
            deadline = Deadline::of_call(now, total, None);
        } else {
            shared.budget.record_call_unclocked(read_clock);
        }
        if let Some(known) = shared.repeat.deadline(&request) {
            deadline = deadline.min(known);
        }
        let attempts_max = shared.repeat.attempts_here(&request, shared.policy.attempts_max);
        let spare = if attempts_max > 1 {
            shared.repeat.prepare(&mut request);
            shared.repeat.replay(&request)
        } else {
            None
        };
        let policy = RetryPolicy { attempts_max, ..shared.policy };
        let retries = Retries::new(policy, shared.repeat.repeatable(&request), spare.is_some(), deadline);
        shared.repeat.begin(&mut request, retries.mark());
        // The one that is ready is called; its clone, which may not be, waits for the next call.
        let clone = self.inner.clone();
        let mut service = std::mem::replace(&mut self.inner, clone);
        let step = Step::Attempting { attempt: service.call(request) };
        RetryFuture { shared, service, spare, retries, is_in_doubt: false, step }
    }
}

pin_project! {
    /// A call with its repeats. Dropped, it cancels the attempt that is under way.
    pub struct RetryFuture<S, Req, P>
    where
        S: Service<Req>,
    {
        shared: Arc<Shared<P>>,
        service: S,
        // Unmarked, as the caller sent it.
        spare: Option<Req>,
        retries: Retries,
        // Whether an attempt that is over may have been executed.
        is_in_doubt: bool,
        #[pin]
        step: Step<S::Future>,
    }
}

pin_project! {
    #[project = Projected]
    enum Step<F> {
        Attempting { #[pin] attempt: F },
        // Boxed: a call that is not repeated need not carry it along.
        Waiting { sleep: Pin<Box<Sleep>> },
        Readying,
    }
}

impl<S, Req, P> Future for RetryFuture<S, Req, P>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    P: Repeat<Req, S::Response, S::Error>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.step.as_mut().project() {
                Projected::Attempting { attempt } => {
                    let mut result = ready!(attempt.poll(cx));
                    let (decision, verdict) = this.shared.decide(this.retries, result.as_ref());
                    if let (RetryDecision::Stop(StopReason::BudgetSpent), Ok(response)) = (decision, &mut result) {
                        this.shared.repeat.advise_no_retry(response);
                    }
                    match decision {
                        RetryDecision::Repeat { wait } if this.spare.is_some() => {
                            *this.is_in_doubt |= verdict != Verdict::NotExecuted;
                            if wait.is_zero() {
                                Step::Readying
                            } else {
                                Step::Waiting { sleep: Box::pin(tokio::time::sleep(wait)) }
                            }
                        }
                        _ => {
                            let told = |error: S::Error| RefusedLater::unless_certain(error.into(), *this.is_in_doubt);
                            return Poll::Ready(result.map_err(told));
                        }
                    }
                }
                Projected::Waiting { sleep } => {
                    ready!(sleep.as_mut().poll(cx));
                    Step::Readying
                }
                Projected::Readying => {
                    ready!(this.service.poll_ready(cx)).map_err(Into::into)?;
                    // There is one: without it nothing would be repeated.
                    let Some(mut request) = this.spare.take() else { return Poll::Pending };
                    *this.spare = this.shared.repeat.replay(&request);
                    this.shared.repeat.begin(&mut request, this.retries.mark());
                    Step::Attempting { attempt: this.service.call(request) }
                }
            };
            // Dropped before the next one begins: an attempt that is over holds nothing while we wait.
            this.step.set(next);
        }
    }
}

impl<P> Shared<P> {
    fn decide<Req, R, E>(&self, retries: &mut Retries, result: Result<&R, &E>) -> (RetryDecision, Verdict)
    where
        P: Repeat<Req, R, E>,
    {
        let end = self.repeat.end(result);
        let verdict = self.repeat.verdict(&end);
        if verdict == Verdict::Executed {
            // Final whatever the time is: the clock is not asked.
            let ended = Ended { end: &end, verdict, pushback: Pushback::Unsaid, is_forwarded: false };
            return (retries.after(ended, &self.budget, self.begun, 0.0), verdict);
        }
        let pushback = match end {
            AttemptEnd::Answered { .. } => self.repeat.pushback(result),
            AttemptEnd::NotSent(_) | AttemptEnd::Lost(_) => Pushback::Unsaid,
        };
        let ended = Ended { end: &end, verdict, pushback, is_forwarded: false };
        (retries.after(ended, &self.budget, clock::now().into_std(), random::unit()), verdict)
    }
}
