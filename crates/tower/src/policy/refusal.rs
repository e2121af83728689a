//! Calls that are refused before anything is sent.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use semel_core::policy::{
    admission::BulkheadFull, balance::NoEndpoint, breaker::BreakerOpen, deadline::TimeoutError, throttle::Throttled,
};

use super::{admission::ReducedCapacity, deadline::DeadlineOver, gate::NotReady, rate_limit::QuotaExceeded};
use crate::BoxError;

/// Whether an error is a refusal by one of this crate's layers, limits and bounds included. Then nothing was sent, and to
/// ask again at once changes nothing: [`RetryLayer`](super::RetryLayer) does not, and a breaker does not count it.
#[must_use]
pub fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    // One line for each kind of refusal.
    error.is::<BreakerOpen>()
        || error.is::<BulkheadFull>()
        || error.is::<DeadlineOver>()
        || error.is::<NoEndpoint>()
        || error.is::<NotReady>()
        || error.is::<QuotaExceeded>()
        || error.is::<ReducedCapacity>()
        || error.is::<Throttled>()
        || error.is::<TimeoutError>()
}

/// A repeat was refused here, and an attempt before it was sent and may have been executed: nobody knows what became of
/// the call, unlike after a refusal. The refusal is the [`source`](Error::source).
#[derive(Debug, thiserror::Error)]
#[error("an earlier attempt may have been executed, and a repeat was refused: {refusal}")]
#[non_exhaustive]
pub struct RefusedLater {
    /// Why it was not repeated.
    #[source]
    pub refusal: BoxError,
}

impl RefusedLater {
    /// What the caller of several attempts is told of the error of the last one.
    pub(super) fn unless_certain(error: BoxError, is_in_doubt: bool) -> BoxError {
        if is_in_doubt && is_refusal(&*error) { Self { refusal: error }.into() } else { error }
    }
}

pin_project! {
    /// The future of a layer that can refuse: the call that was let through, or the refusal.
    pub struct RefusedOr<F> {
        #[pin]
        call: Call<F>,
    }
}

pin_project! {
    #[project = Projected]
    enum Call<F> {
        // Gone once the future has completed.
        Refused { error: Option<BoxError> },
        Running { #[pin] call: F },
    }
}

impl<F> RefusedOr<F> {
    pub(super) fn refused(error: impl Into<BoxError>) -> Self {
        Self { call: Call::Refused { error: Some(error.into()) } }
    }

    pub(super) const fn running(call: F) -> Self {
        Self { call: Call::Running { call } }
    }
}

impl<F, T> Future for RefusedOr<F>
where
    F: Future<Output = Result<T, BoxError>>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().call.project() {
            Projected::Running { call } => call.poll(cx),
            // Polled again after it completed, which nobody may do, it never completes.
            Projected::Refused { error } => error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
        }
    }
}
