//! What breakers and throttles have in common: a permit before each call, and a word on how it ended.

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use pin_project_lite::pin_project;
use semel_core::policy::{
    breaker::{Breaker, BreakerOpen, BreakerPermit},
    response_class::ResponseClass,
    throttle::{Throttle, ThrottlePermit, Throttled},
};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    cancel,
    classify::{ByResult, ByStatus, Classify},
    refusal::RefusedOr,
};
use crate::{BoxError, clock, random};

/// Something that lets calls through, or refuses them, by how earlier ones ended.
pub trait Gate: Send + Sync + 'static {
    /// A call that was let through. Dropped, it gives back what it holds.
    type Permit;
    /// Why one was not.
    type Refusal: Error + Send + Sync + 'static;

    /// Lets a call through, or refuses it.
    ///
    /// # Errors
    /// The refusal.
    fn enter(this: &Arc<Self>, now: Instant) -> Result<Self::Permit, Self::Refusal>;

    /// Takes a result into account.
    fn record(permit: Self::Permit, class: ResponseClass, now: Instant);

    /// Whether a call is so likely to be refused that it need not wait until the service under it is ready.
    fn is_shut(&self) -> bool;
}

impl Gate for Breaker {
    type Permit = BreakerPermit<Arc<Self>>;
    type Refusal = BreakerOpen;

    fn enter(this: &Arc<Self>, now: Instant) -> Result<Self::Permit, BreakerOpen> {
        Self::try_acquire(Arc::clone(this), now)
    }

    fn record(permit: Self::Permit, class: ResponseClass, now: Instant) {
        permit.record(class, now);
    }

    fn is_shut(&self) -> bool {
        !self.is_closed()
    }
}

impl Gate for Throttle {
    type Permit = ThrottlePermit<Arc<Self>>;
    type Refusal = Throttled;

    fn enter(this: &Arc<Self>, now: Instant) -> Result<Self::Permit, Throttled> {
        Self::try_acquire(Arc::clone(this), now, random::unit())
    }

    fn record(permit: Self::Permit, class: ResponseClass, now: Instant) {
        permit.record(class, now);
    }

    fn is_shut(&self) -> bool {
        false
    }
}

/// A layer that asks a gate before each call. All services that it and its clones make share one gate.
#[derive(Debug)]
pub struct GateLayer<G, C = ByResult> {
    gate: Arc<G>,
    classify: C,
}

/// The service that a [`GateLayer`] makes.
#[derive(Debug)]
pub struct Gated<S, G, C> {
    inner: S,
    gate: Arc<G>,
    classify: C,
    /// Whether `inner` said that it is ready, and was not called since.
    is_ready: bool,
}

impl<G> GateLayer<G> {
    /// Asks this gate; errors are failures, responses are not.
    #[must_use]
    pub const fn new(gate: Arc<G>) -> Self {
        Self { gate, classify: ByResult }
    }
}

impl<G, C> GateLayer<G, C> {
    /// For HTTP services: what failed is seen from the status.
    #[must_use]
    pub fn http(self) -> GateLayer<G, ByStatus> {
        self.classify(ByStatus)
    }

    /// Reads results in another way.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> GateLayer<G, D> {
        GateLayer { gate: self.gate, classify }
    }

    /// The gate, to look at.
    #[must_use]
    pub const fn gate(&self) -> &Arc<G> {
        &self.gate
    }
}

impl<G, C: Clone> Clone for GateLayer<G, C> {
    fn clone(&self) -> Self {
        Self { gate: Arc::clone(&self.gate), classify: self.classify.clone() }
    }
}

impl<S: Clone, G, C: Clone> Clone for Gated<S, G, C> {
    fn clone(&self) -> Self {
        // Readiness belongs to the service that was asked, not to its clone.
        let (gate, classify) = (Arc::clone(&self.gate), self.classify.clone());
        Self { inner: self.inner.clone(), gate, classify, is_ready: false }
    }
}

impl<S, G, C: Clone> Layer<S> for GateLayer<G, C> {
    type Service = Gated<S, G, C>;

    fn layer(&self, inner: S) -> Gated<S, G, C> {
        Gated { inner, gate: Arc::clone(&self.gate), classify: self.classify.clone(), is_ready: false }
    }
}

impl<S, G, C, Req> Service<Req> for Gated<S, G, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    G: Gate,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RefusedOr<GatedFuture<S::Future, G, C>>;

    /// Ready when the inner service is, or at once if the gate is shut: what is refused need not queue for it.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if !self.is_ready {
            match self.inner.poll_ready(cx) {
                Poll::Pending if self.gate.is_shut() => {}
                ready => {
                    ready!(ready).map_err(Into::into)?;
                    self.is_ready = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let begun = clock::now().into_std();
        let permit = match G::enter(&self.gate, begun) {
            Ok(permit) => permit,
            Err(refusal) => return RefusedOr::refused(refusal),
        };
        if !std::mem::take(&mut self.is_ready) {
            // The gate was shut and has opened since; the permit goes back as it is dropped.
            return RefusedOr::refused(NotReady);
        }
        let classify = self.classify.clone();
        let permit = Held::<G> { permit: Some(permit), begun };
        RefusedOr::running(GatedFuture { inner: self.inner.call(request), permit, classify })
    }
}

/// The gate was shut when the service was asked whether it is ready, and the one under it was busy: nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service was busy and its gate shut")]
#[non_exhaustive]
pub struct NotReady;

pin_project! {
    /// A call that a gate let through. Dropped before its end, it gives its permit back; if that was because it took too
    /// long, it has failed.
    pub struct GatedFuture<F, G: Gate, C> {
        #[pin]
        inner: F,
        permit: Held<G>,
        classify: C,
    }
}

/// The permit of a call until it has ended.
struct Held<G: Gate> {
    permit: Option<G::Permit>,
    begun: Instant,
}

impl<G: Gate> Drop for Held<G> {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let now = clock::now().into_std();
        if cancel::why().blames(self.begun, now) {
            G::record(permit, ResponseClass::Failure, now);
        }
    }
}

impl<F, G, C, T, E> Future for GatedFuture<F, G, C>
where
    F: Future<Output = Result<T, E>>,
    G: Gate,
    C: Classify<T, E>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        if let Some(permit) = this.permit.permit.take() {
            G::record(permit, this.classify.class(result.as_ref()), clock::now().into_std());
        }
        Poll::Ready(result.map_err(Into::into))
    }
}
