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

use crate::{BoxError, clock};

/// Gives each call so much time. What is left of it then is cancelled: its future is dropped.
///
/// Around a whole call it is the total timeout, under a [`RetryLayer`](super::RetryLayer) each attempt's. A call that
/// is answered without waiting costs no timer; any other's time begins when it first waits.
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
        TimeoutFuture { inner: self.inner.call(request), timer: Timer::After { after: self.after } }
    }
}

pin_project! {
    /// The future of a [`Timeout`], and of a [`Deadlined`](super::Deadlined).
    pub struct TimeoutFuture<F> {
        #[pin]
        inner: F,
        #[pin]
        timer: Timer,
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
    pub(super) const fn by(inner: F, by: Instant) -> Self {
        Self { inner, timer: Timer::By { by } }
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
        if let Poll::Ready(result) = this.inner.poll(cx) {
            return Poll::Ready(result.map_err(Into::into));
        }
        let by = match this.timer.as_mut().project() {
            TimerProjected::Set { sleep } => {
                ready!(sleep.poll(cx));
                return Poll::Ready(Err(Elapsed.into()));
            }
            // A time beyond what an Instant can say is no bound in practice.
            TimerProjected::After { after } => clock::now().checked_add(*after),
            TimerProjected::By { by } => Some(*by),
        };
        let Some(by) = by else { return Poll::Pending };
        this.timer.set(Timer::Set { sleep: tokio::time::sleep_until(by) });
        let TimerProjected::Set { sleep } = this.timer.project() else { return Poll::Pending };
        ready!(sleep.poll(cx));
        Poll::Ready(Err(Elapsed.into()))
    }
}
