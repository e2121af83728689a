//! What layers refuse, as an HTTP answer.

use std::{
    convert::Infallible,
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use pin_project_lite::pin_project;
use semel_core::{
    dialect::Dialect,
    policy::{
        admission::BulkheadFull, balance::NoEndpoint, breaker::BreakerOpen, deadline::TimeoutError,
        pushback::pushback_seconds, throttle::Throttled,
    },
    problem::{Problem, ProblemKind},
};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    admission::ReducedCapacity, bulkhead::bulkhead_problem, deadline::DeadlineOver, gate::NotReady,
    rate_limit::QuotaExceeded, refusal::RefusedLater, timeout::Elapsed,
};
use crate::{BoxError, random};

/// Answers where the layers under it fail, so that nothing above it has to: 429, 503 or 504 as problem details
/// (RFC 9457), with `Retry-After` where waiting helps and `Semel-Effect: none` where nothing was executed.
///
/// It belongs outermost in a server; axum asks for services that cannot fail. In a client it would hide what the caller
/// can read from the error itself.
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use semel_tower::policy::{BulkheadLayer, ProblemLayer};
/// use tower::{ServiceBuilder, ServiceExt as _};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let service = ServiceBuilder::new().layer(ProblemLayer::default()).layer(BulkheadLayer::new(0)).service_fn(
///     async |_: Request<()>| Ok::<_, semel_tower::BoxError>(Response::new(Full::<bytes::Bytes>::default())),
/// );
/// let Ok(answer) = service.oneshot(Request::new(())).await;
/// assert_eq!(answer.status(), 503);
/// assert_eq!(answer.headers()["semel-effect"], "none");
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ProblemLayer {
    dialect: &'static Dialect,
}

/// The service that a [`ProblemLayer`] makes.
#[derive(Debug)]
pub struct Problems<S> {
    inner: S,
    dialect: &'static Dialect,
    /// The inner service's last word: it will never be ready again.
    broken: Option<BoxError>,
}

impl ProblemLayer {
    /// In these words.
    #[must_use]
    pub const fn new(dialect: &'static Dialect) -> Self {
        Self { dialect }
    }
}

impl Default for ProblemLayer {
    /// Problem details (RFC 9457).
    fn default() -> Self {
        Self::new(&Dialect::IETF)
    }
}

impl<S> Layer<S> for ProblemLayer {
    type Service = Problems<S>;

    fn layer(&self, inner: S) -> Problems<S> {
        Problems { inner, dialect: self.dialect, broken: None }
    }
}

impl<S: Clone> Clone for Problems<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), dialect: self.dialect, broken: None }
    }
}

/// What the caller is told of an error of this crate's layers, or of any other.
#[must_use]
pub fn problem_of(error: &(dyn Error + 'static)) -> Problem {
    let unavailable = |after: Duration| {
        let seconds = pushback_seconds(after, random::unit());
        Problem::new(ProblemKind::UpstreamUnavailable).detail(error.to_string()).retry_after_seconds(seconds)
    };
    if let Some(exceeded) = error.downcast_ref::<QuotaExceeded>() {
        exceeded.problem()
    } else if let Some(reduced) = error.downcast_ref::<ReducedCapacity>() {
        reduced.problem()
    } else if let Some(full) = error.downcast_ref::<BulkheadFull>() {
        bulkhead_problem(*full)
    } else if let Some(open) = error.downcast_ref::<BreakerOpen>() {
        unavailable(open.retry_after)
    } else if let Some(none) = error.downcast_ref::<NoEndpoint>() {
        unavailable(none.retry_after)
    } else if error.is::<Throttled>() || error.is::<NotReady>() {
        unavailable(Duration::from_secs(1))
    } else if error.is::<TimeoutError>() {
        Problem::new(ProblemKind::RequestMalformed).detail(error.to_string())
    } else if error.is::<DeadlineOver>() {
        Problem::new(ProblemKind::DeadlineExceeded)
    } else if error.is::<Elapsed>() {
        Problem::new(ProblemKind::UpstreamTimeout)
    } else if error.is::<RefusedLater>() {
        Problem::new(ProblemKind::UpstreamFailed).detail(error.to_string())
    } else {
        // Its words may be about somebody else's secrets.
        Problem::new(ProblemKind::UpstreamFailed)
    }
}

fn answer<B>(dialect: &Dialect, error: &(dyn Error + 'static)) -> Response<Either<B, Full<Bytes>>> {
    let mut answer = problem_of(error).render(dialect);
    if let Some(exceeded) = error.downcast_ref::<QuotaExceeded>() {
        exceeded.write_fields(answer.headers_mut());
    }
    answer.map(|bytes| Either::Right(Full::new(bytes)))
}

impl<S, A, B> Service<Request<A>> for Problems<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<Either<B, Full<Bytes>>>;
    type Error = Infallible;
    type Future = ProblemFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.broken.is_none()
            && let Err(error) = ready!(self.inner.poll_ready(cx))
        {
            self.broken = Some(error.into());
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let state = match self.broken.take() {
            Some(error) => State::Broken { error },
            None => State::Running { call: self.inner.call(request) },
        };
        ProblemFuture { dialect: self.dialect, state }
    }
}

pin_project! {
    /// The future of a [`Problems`].
    pub struct ProblemFuture<F> {
        dialect: &'static Dialect,
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F> {
        Broken { error: BoxError },
        Running { #[pin] call: F },
    }
}

impl<F, B, E> Future for ProblemFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<Either<B, Full<Bytes>>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(Ok(match this.state.project() {
            Projected::Broken { error } => answer(this.dialect, &**error),
            Projected::Running { call } => match ready!(call.poll(cx)) {
                Ok(response) => response.map(Either::Left),
                Err(error) => answer(this.dialect, &*error.into()),
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: impl Into<BoxError>) -> (u16, &'static str, bool) {
        let error = error.into();
        let problem = problem_of(&*error);
        let answer: Response<Either<Full<Bytes>, _>> = answer(&Dialect::IETF, &*error);
        (answer.status().as_u16(), problem.kind().code(), answer.headers().contains_key("retry-after"))
    }

    #[test]
    fn every_error_has_its_answer() {
        let retry_after = Duration::from_secs(3);
        assert_eq!(told(BreakerOpen { retry_after }), (503, "upstream-unavailable", true));
        assert_eq!(told(NoEndpoint { retry_after }), (503, "upstream-unavailable", true));
        assert_eq!(told(NotReady), (503, "upstream-unavailable", true));
        assert_eq!(told(DeadlineOver), (504, "deadline-exceeded", false));
        assert_eq!(told(Elapsed), (504, "upstream-timeout", false));
        let malformed = TimeoutError(http::HeaderName::from_static("semel-timeout"));
        assert_eq!(told(malformed), (400, "request-malformed", false));
        let later = RefusedLater::unless_certain(BreakerOpen { retry_after }.into(), true);
        assert_eq!(told(later), (502, "upstream-failed", false));
        assert_eq!(told("the password is 1234"), (502, "upstream-failed", false));
    }

    #[test]
    fn a_stranger_s_words_are_not_passed_on() {
        let error: BoxError = "the password is 1234".into();
        let body = problem_of(&*error).render(&Dialect::IETF).into_body();
        assert!(!body.windows(4).any(|window| window == b"1234"));
    }
}
