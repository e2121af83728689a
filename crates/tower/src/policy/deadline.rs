//! When a caller stops waiting: read from its request, and told on.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use semel_core::policy::deadline::{Deadline, asked_timeout, write_timeout};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{cancel::Why, refusal::RefusedOr, timeout::TimeoutFuture};
use crate::{BoxError, clock};

/// Gives each HTTP call the time that its caller gives it, and no more than a bound of its own.
///
/// The time is read from `Semel-Timeout`, `grpc-timeout` and `x-envoy-expected-rq-timeout-ms`; what is left of it stands
/// in the same headers of the request that goes on, and as a [`Deadline`] in its extensions, from where a
/// [`RetryLayer`](super::RetryLayer) takes it and tells each attempt what is left then. An earlier deadline that is
/// there already counts too. When it is over the call is cancelled: [`Elapsed`](super::Elapsed). With breakers, throttles
/// and balancers under it that is a failure if the bound was the layer's own, and not if the caller was in a hurry.
///
/// A header that cannot be read is the caller's mistake, and an error of its own: the call is refused with
/// [`TimeoutError`](semel_core::policy::deadline::TimeoutError).
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLayer {
    total: Duration,
}

/// The service that a [`DeadlineLayer`] makes.
#[derive(Clone, Copy, Debug)]
pub struct Deadlined<S> {
    inner: S,
    total: Duration,
}

/// The caller had already stopped waiting: nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the caller's deadline is over")]
#[non_exhaustive]
pub struct DeadlineOver;

impl DeadlineLayer {
    /// No more than `total` for each call.
    #[must_use]
    pub const fn new(total: Duration) -> Self {
        Self { total }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadlined<S>;

    fn layer(&self, inner: S) -> Deadlined<S> {
        Deadlined { inner, total: self.total }
    }
}

impl<S, B> Service<Request<B>> for Deadlined<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RefusedOr<TimeoutFuture<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let now = clock::now().into_std();
        let asked = match asked_timeout(request.headers()) {
            Ok(asked) => asked,
            Err(error) => return RefusedOr::refused(error),
        };
        let mut deadline = Deadline::of_call(now, self.total, asked);
        if let Some(known) = request.extensions().get::<Deadline>() {
            deadline = deadline.min(*known);
        }
        let Some(left) = deadline.remaining(now) else { return RefusedOr::refused(DeadlineOver) };
        request.extensions_mut().insert(deadline);
        write_timeout(request.headers_mut(), left);
        let by = Instant::from_std(deadline.instant());
        // A caller in a hurry says nothing about the service.
        let why = if left < self.total { Why::Unwanted } else { Why::TooSlow { after: left } };
        RefusedOr::running(TimeoutFuture::by(self.inner.call(request), by, why))
    }
}
