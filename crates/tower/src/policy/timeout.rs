//! A bound on the time of a call.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::cancel::{Why, cancel};
use crate::{BoxError, clock};

/// Gives each call so much time. What is left of it then is cancelled: its future is dropped.
///
/// Around a whole call it is the total timeout, under a [`RetryLayer`](super::RetryLayer) each attempt's. A call that
/// is answered without waiting costs no timer; any other's time begins when it first waits.
///
/// What is cut off counts as a failure with the breakers, throttles and balancers under it, as it does in Envoy, unless
/// most of the time had gone to something else.
#[derive(Clone, Copy, Debug)]
pub struct TimeoutLayer {
    after: Duration,
}

/// The service that a [`TimeoutLayer`] makes.
#[derive(Clone, Copy, Debug)]
pub struct Timeout<S> {
    inner: S,
    after: Duration,
}

/// The time of a call was over before its answer came: nobody knows what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer in time")]
#[non_exhaustive]
pub struct Elapsed;

impl TimeoutLayer {
    /// So much time for each call.
    #[must_use]
    pub const fn new(after: Duration) -> Self {
        Self { after }
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout { inner, after: self.after }
    }
}

impl<S, Req> Service<Req> for Timeout<S>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = TimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let inner = Inner::Running { call: self.inner.call(request) };
        TimeoutFuture { inner, timer: Timer::After { after: self.after }, why: Why::TooSlow { after: self.after } }
    }
}

pin_project! {
    /// The future of a [`Timeout`], and of a [`Deadlined`](super::Deadlined).
    pub struct TimeoutFuture<F> {
        #[pin]
        inner: Inner<F>,
        #[pin]
        timer: Timer,
        why: Why,
    }
}

pin_project! {
    #[project = InnerProjected]
    enum Inner<F> {
        Running { #[pin] call: F },
        Cancelled,
    }
}

pin_project! {
    #[project = TimerProjected]
    pub(super) enum Timer {
        /// To be set when the call first waits.
        After { after: Duration },
        By { by: Instant },
        Set { #[pin] sleep: Sleep },
    }
}

impl<F> TimeoutFuture<F> {
    /// A call that is over at `by`: for this reason.
    pub(super) const fn by(call: F, by: Instant, why: Why) -> Self {
        Self { inner: Inner::Running { call }, timer: Timer::By { by }, why }
    }
}

impl<F, T, E> Future for TimeoutFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // The answer first: one that is there in time counts, however late it is looked at.
        if let InnerProjected::Running { call } = this.inner.as_mut().project()
            && let Poll::Ready(result) = call.poll(cx)
        {
            return Poll::Ready(result.map_err(Into::into));
        }
        ready!(this.timer.poll_over(cx));
        // Now, not when the caller drops this future, and with the reason.
        cancel(*this.why, || this.inner.set(Inner::Cancelled));
        Poll::Ready(Err(Elapsed.into()))
    }
}

impl Timer {
    fn poll_over(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let by = match self.as_mut().project() {
            TimerProjected::Set { sleep } => return sleep.poll(cx),
            // A time beyond what an Instant can say is no bound in practice.
            TimerProjected::After { after } => clock::now().checked_add(*after),
            TimerProjected::By { by } => Some(*by),
        };
        let Some(by) = by else { return Poll::Pending };
        self.set(Self::Set { sleep: tokio::time::sleep_until(by) });
        match self.project() {
            TimerProjected::Set { sleep } => sleep.poll(cx),
            TimerProjected::After { .. } | TimerProjected::By { .. } => Poll::Pending,
        }
    }
}
