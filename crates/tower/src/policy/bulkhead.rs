//! A fixed bound on calls in flight.

use std::{
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use semel_core::{
    policy::admission::{Bulkhead, BulkheadFull},
    problem::{Problem, ProblemKind},
};
use tower_layer::Layer;
use tower_service::Service;

use super::hold::{Held, Hold, UntilAnswer, UntilBodyEnds};
use crate::BoxError;

/// So many calls at a time; what is more is refused at once with a [`BulkheadFull`]. Calls of all services that one layer
/// makes count together.
///
/// tower's `ConcurrencyLimit` lets callers wait without bound in `poll_ready`; where waiting shall be possible, and
/// bounded, there is [`AdmissionLayer`](super::AdmissionLayer).
///
/// A call counts until its answer's body ends ([`until_answer`](Self::until_answer): until there is an answer), it fails, it
/// is dropped or it panics.
///
/// ```
/// use http::{Request, Response};
/// use semel_tower::policy::BulkheadLayer;
/// use tower::{ServiceBuilder, ServiceExt as _};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), semel_tower::BoxError> {
/// let service = ServiceBuilder::new()
///     .layer(BulkheadLayer::new(1))
///     .service_fn(|_: Request<()>| async { Ok::<_, semel_tower::BoxError>(Response::new("done".to_owned())) });
/// let answer = service.clone().oneshot(Request::new(())).await?;
/// // The first answer's body has not been read yet.
/// assert!(service.clone().oneshot(Request::new(())).await.is_err());
/// drop(answer);
/// assert!(service.oneshot(Request::new(())).await.is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BulkheadLayer<H = UntilBodyEnds> {
    bulkhead: Arc<Bulkhead>,
    hold: PhantomData<fn() -> H>,
}

/// The service that a [`BulkheadLayer`] makes.
#[derive(Debug)]
pub struct BulkheadService<S, H = UntilBodyEnds> {
    inner: S,
    bulkhead: Arc<Bulkhead>,
    hold: PhantomData<fn() -> H>,
}

impl BulkheadLayer {
    /// A bulkhead with so many places.
    #[must_use]
    pub fn new(places: u32) -> Self {
        Self { bulkhead: Arc::new(Bulkhead::new(places)), hold: PhantomData }
    }

    /// Counts a call only until there is an answer, which may be of any type.
    #[must_use]
    pub fn until_answer(self) -> BulkheadLayer<UntilAnswer> {
        BulkheadLayer { bulkhead: self.bulkhead, hold: PhantomData }
    }
}

impl<H> BulkheadLayer<H> {
    /// The bulkhead, to look at.
    #[must_use]
    pub const fn bulkhead(&self) -> &Arc<Bulkhead> {
        &self.bulkhead
    }
}

impl<H> From<u32> for BulkheadLayer<H> {
    /// A bulkhead with so many places.
    fn from(places: u32) -> Self {
        Self { bulkhead: Arc::new(Bulkhead::new(places)), hold: PhantomData }
    }
}

/// What the caller of a full bulkhead is told: `reduced-capacity`.
#[must_use]
pub fn bulkhead_problem(full: BulkheadFull) -> Problem {
    Problem::new(ProblemKind::ReducedCapacity).detail(full.to_string())
}

impl<S, H> Layer<S> for BulkheadLayer<H> {
    type Service = BulkheadService<S, H>;

    fn layer(&self, inner: S) -> BulkheadService<S, H> {
        BulkheadService { inner, bulkhead: Arc::clone(&self.bulkhead), hold: PhantomData }
    }
}

impl<S, H, R> Service<R> for BulkheadService<S, H>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    H: Hold<S::Response>,
{
    type Response = H::Answer<Taken>;
    type Error = BoxError;
    type Future = BulkheadFuture<S::Future, H>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let state = match self.bulkhead.try_take() {
            Ok(()) => {
                // Before the inner call, which may panic.
                let taken = Taken(Arc::clone(&self.bulkhead));
                State::Running { future: self.inner.call(request), taken: Some(taken) }
            }
            Err(full) => State::Refused { full },
        };
        BulkheadFuture { state, hold: PhantomData }
    }
}

/// A place of a bulkhead, given back when it is dropped.
#[derive(Debug)]
pub struct Taken(Arc<Bulkhead>);

impl Held for Taken {
    fn keep(&mut self) {}
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

pin_project! {
    /// The future of a [`BulkheadService`].
    pub struct BulkheadFuture<F, H> {
        #[pin]
        state: State<F>,
        hold: PhantomData<fn() -> H>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Refused { full: BulkheadFull },
        Running { #[pin] future: F, taken: Option<Taken> },
    }
}

impl<F, H, A, E> Future for BulkheadFuture<F, H>
where
    F: Future<Output = Result<A, E>>,
    E: Into<BoxError>,
    H: Hold<A>,
{
    type Output = Result<H::Answer<Taken>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Refused { full } => Poll::Ready(Err((*full).into())),
            StateProjection::Running { future, taken } => {
                let result = ready!(future.poll(cx));
                let taken = taken.take();
                Poll::Ready(match (result, taken) {
                    (Ok(answer), Some(taken)) => Ok(H::hold(answer, taken)),
                    (Err(error), _) => Err(error.into()),
                    (Ok(_), None) => panic!("a future is not polled after it is ready"),
                })
            }
        }
    }
}

// Derived ones would ask the same of `H`, which is only a name.
impl<H> Clone for BulkheadLayer<H> {
    fn clone(&self) -> Self {
        Self { bulkhead: Arc::clone(&self.bulkhead), hold: PhantomData }
    }
}

impl<S: Clone, H> Clone for BulkheadService<S, H> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), bulkhead: Arc::clone(&self.bulkhead), hold: PhantomData }
    }
}
