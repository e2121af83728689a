//! Faults on purpose.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use semel_core::{
    headers::SEMEL_SOURCE,
    policy::fault::{Fault, FaultPolicy},
};
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;
use tracing::warn;

use crate::{BoxError, random};

/// Delays, aborts and truncates on purpose, so that users can rehearse failures. Each injected fault is a warning in the log:
/// nobody shall search for one that they have ordered.
///
/// An aborted request does not reach the inner service; its answer has no body and says `Semel-Source: gateway`. A truncated
/// answer keeps its headers, Content-Length too, and its body fails with [`TruncatedOnPurpose`].
///
/// ```
/// use http::{HeaderMap, Request, Response, StatusCode};
/// use http_body_util::Full;
/// use semel_core::policy::fault::{FaultPolicy, Injected};
/// use semel_tower::policy::FaultLayer;
/// use tower::{ServiceBuilder, ServiceExt as _};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), semel_tower::BoxError> {
/// let abort = Some(Injected { fault: StatusCode::SERVICE_UNAVAILABLE, share: 1.0 });
/// let service = ServiceBuilder::new()
///     .layer(FaultLayer::new(FaultPolicy { abort, ..FaultPolicy::default() }))
///     .service_fn(|_: Request<()>| async {
///         Ok::<_, semel_tower::BoxError>(Response::new(Full::new(bytes::Bytes::new())))
///     });
/// assert_eq!(service.oneshot(Request::new(())).await?.status(), StatusCode::SERVICE_UNAVAILABLE);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FaultLayer {
    policy: Arc<FaultPolicy>,
}

/// The service that a [`FaultLayer`] makes.
#[derive(Clone, Debug)]
pub struct FaultService<S> {
    inner: S,
    policy: Arc<FaultPolicy>,
}

/// The error of a body that was cut off on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer was cut off on purpose, by a fault policy")]
pub struct TruncatedOnPurpose;

impl FaultLayer {
    /// A layer that lives by this policy.
    #[must_use]
    pub fn new(policy: FaultPolicy) -> Self {
        Self { policy: Arc::new(policy) }
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = FaultService<S>;

    fn layer(&self, inner: S) -> FaultService<S> {
        FaultService { inner, policy: Arc::clone(&self.policy) }
    }
}

impl<S, B, A> Service<Request<B>> for FaultService<S>
where
    S: Service<Request<B>, Response = Response<A>> + Clone,
{
    type Response = Response<FaultBody<A>>;
    type Error = S::Error;
    type Future = FaultFuture<S, Request<B>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let rands = [random::unit(), random::unit(), random::unit()];
        let fault = self.policy.decide(request.headers(), rands);
        if fault.is_none() {
            return FaultFuture { state: State::Running { future: self.inner.call(request) }, fault };
        }
        let (method, path) = (request.method(), request.uri().path());
        warn!(%method, path, ?fault, "injecting a fault, as the policy says");
        let state = match fault {
            Fault { delay: Some(delay), .. } => {
                // What is ready now need not be when the delay is over: another one is asked then.
                let call = (fault.abort.is_none()).then(|| (self.inner.clone(), request));
                State::Delayed { timer: Box::pin(sleep(delay)), call }
            }
            Fault { abort: Some(_), .. } => State::Aborted,
            _ => State::Running { future: self.inner.call(request) },
        };
        FaultFuture { state, fault }
    }
}

pin_project! {
    /// The future of a [`FaultService`].
    pub struct FaultFuture<S: Service<R>, R> {
        #[pin]
        state: State<S, R>,
        fault: Fault,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S: Service<R>, R> {
        Delayed { timer: Pin<Box<Sleep>>, call: Option<(S, R)> },
        Aborted,
        Running { #[pin] future: S::Future },
    }
}

impl<S, R, A> Future for FaultFuture<S, R>
where
    S: Service<R, Response = Response<A>>,
{
    type Output = Result<Response<FaultBody<A>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProjection::Delayed { timer, call } => {
                    ready!(timer.as_mut().poll(cx));
                    if let Some((inner, _)) = call {
                        ready!(inner.poll_ready(cx))?;
                    }
                    call.take()
                        .map_or(State::Aborted, |(mut inner, request)| State::Running { future: inner.call(request) })
                }
                StateProjection::Aborted => {
                    let mut answer = Response::new(FaultBody::new(None, None));
                    *answer.status_mut() = this.fault.abort.unwrap_or_default();
                    answer.headers_mut().insert(SEMEL_SOURCE, HeaderValue::from_static("gateway"));
                    return Poll::Ready(Ok(answer));
                }
                StateProjection::Running { future } => {
                    let answer = ready!(future.poll(cx))?;
                    let left = this.fault.truncate;
                    return Poll::Ready(Ok(answer.map(|body| FaultBody::new(Some(body), left))));
                }
            };
            this.state.set(next);
        }
    }
}

pin_project! {
    /// The inner service's body, part of it, or none.
    #[derive(Clone, Debug)]
    pub struct FaultBody<B> {
        #[pin]
        inner: Option<B>,
        // Bytes that may still go out, where it is to be cut off.
        left: Option<u64>,
        // Whether bytes were left out.
        is_cut: bool,
    }
}

impl<B> FaultBody<B> {
    const fn new(inner: Option<B>, left: Option<u64>) -> Self {
        Self { inner, left, is_cut: false }
    }
}

impl<B> Body for FaultBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let mut polled = if *this.is_cut { None } else { ready!(inner.poll_frame(cx)) };
        if let (Some(left), Some(Ok(frame))) = (this.left.as_mut(), &mut polled) {
            *this.is_cut = frame.data_ref().is_some_and(|data| data.len() as u64 > *left);
            if let Some(data) = frame.data_mut() {
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
            }
            if *this.is_cut && frame.data_ref().is_some_and(Bytes::is_empty) {
                polled = None;
            }
        }
        match polled {
            None if *this.is_cut => {
                this.inner.set(None);
                *this.is_cut = false;
                Poll::Ready(Some(Err(TruncatedOnPurpose.into())))
            }
            polled => Poll::Ready(polled.map(|frame| frame.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.is_cut && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // What the headers promise, not what will come: that is the fault.
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
