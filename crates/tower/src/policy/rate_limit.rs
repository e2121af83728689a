//! How often callers may ask.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{HeaderMap, HeaderValue, Response, header::RETRY_AFTER};
use pin_project_lite::pin_project;
use semel_core::{
    headers::{RATELIMIT, RATELIMIT_POLICY},
    policy::{
        pushback::pushback_seconds,
        rate_limit::{LimitPolicy, QuotaError, RateLimited, RateLimiter},
    },
    problem::{Problem, ProblemKind},
};
use tower_layer::Layer;
use tower_service::Service;

use crate::{BoxError, clock, random};

/// Refuses calls over a limit at once, with a [`QuotaExceeded`]. `F` says for each request whose limit it counts on; the
/// services that one layer makes share its limits.
///
/// A key that is cheap to clone (a number, an address, a `HeaderValue`, an `Arc<str>`) makes a call without allocation.
/// Keys without end, such as a header that anybody fills in as they please, bring no more than the limiter's bound, but
/// count limits of people who made them up: key by what is authenticated.
///
/// ```
/// use std::time::Duration;
/// use http::{Request, Response, header::AUTHORIZATION};
/// use semel_core::policy::rate_limit::{KEYS_MAX, LimitPolicy, Quota, Reach};
/// use semel_tower::policy::RateLimitLayer;
/// use tower::{ServiceBuilder, ServiceExt as _};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), semel_tower::BoxError> {
/// let each = LimitPolicy {
///     name: "each".to_owned(),
///     quota: Quota::bucket(100, Duration::from_secs(1), 2)?,
///     reach: Reach::PerKey { keys_max: KEYS_MAX },
/// };
/// let layer = RateLimitLayer::new(vec![each], |request: &Request<()>| request.headers().get(AUTHORIZATION).cloned())?;
/// let service = ServiceBuilder::new()
///     .layer(layer.announced())
///     .service_fn(|_: Request<()>| async { Ok::<_, semel_tower::BoxError>(Response::new(())) });
/// let answer = service.clone().oneshot(Request::new(())).await?;
/// assert_eq!(answer.headers()["ratelimit-policy"], r#""each";q=100;w=1"#);
/// assert_eq!(answer.headers()["ratelimit"], r#""each";r=1;t=1"#);
/// assert!(service.clone().oneshot(Request::new(())).await.is_ok());
/// let error = service.clone().oneshot(Request::new(())).await.unwrap_err();
/// assert!(error.is::<semel_tower::policy::QuotaExceeded>());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RateLimitLayer<K, F, A = Silent, H = RandomState> {
    limiter: Arc<RateLimiter<K, H>>,
    key_of: F,
    announce: PhantomData<fn() -> A>,
}

/// The service that a [`RateLimitLayer`] makes.
#[derive(Debug)]
pub struct RateLimit<S, K, F, A = Silent, H = RandomState> {
    inner: S,
    limiter: Arc<RateLimiter<K, H>>,
    key_of: F,
    announce: PhantomData<fn() -> A>,
}

/// A call over a limit.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{limited}")]
pub struct QuotaExceeded {
    /// How the caller stands.
    pub limited: RateLimited,
    /// For a Retry-After: no sooner than the limit allows, and jittered.
    pub retry_after_seconds: u32,
    /// The value of `RateLimit-Policy`.
    pub policy_field: HeaderValue,
    /// The value of `RateLimit`.
    pub field: Option<HeaderValue>,
}

impl QuotaExceeded {
    /// What the caller is told: `quota-exceeded`, 429. Its headers are [`write_fields`](Self::write_fields)'s.
    #[must_use]
    pub fn problem(&self) -> Problem {
        Problem::new(ProblemKind::QuotaExceeded).retry_after_seconds(self.retry_after_seconds)
    }

    /// Writes `RateLimit-Policy`, `RateLimit` and Retry-After.
    pub fn write_fields(&self, headers: &mut HeaderMap) {
        headers.insert(RATELIMIT_POLICY, self.policy_field.clone());
        if let Some(field) = &self.field {
            headers.insert(RATELIMIT, field.clone());
        }
        headers.insert(RETRY_AFTER, HeaderValue::from(self.retry_after_seconds));
    }
}

impl<K, F> RateLimitLayer<K, F> {
    /// A layer with these limits, whose `key_of` says for each request whose limit it counts on.
    ///
    /// # Errors
    /// Where there is no limit, or a name cannot stand in a header.
    pub fn new(limits: Vec<LimitPolicy>, key_of: F) -> Result<Self, QuotaError> {
        let limiter = RateLimiter::new(limits, clock::now().into_std(), RandomState::new())?;
        Ok(Self { limiter: Arc::new(limiter), key_of, announce: PhantomData })
    }

    /// Tells each caller how it stands, in `RateLimit-Policy` and `RateLimit` of every HTTP answer.
    #[must_use]
    pub fn announced(self) -> RateLimitLayer<K, F, Announced> {
        RateLimitLayer { limiter: self.limiter, key_of: self.key_of, announce: PhantomData }
    }
}

impl<K, F, A, H> RateLimitLayer<K, F, A, H> {
    /// The limiter, to see who is limited.
    #[must_use]
    pub const fn limiter(&self) -> &Arc<RateLimiter<K, H>> {
        &self.limiter
    }
}

/// What an answer says about limits: [`Silent`] or [`Announced`].
pub trait Announce<R> {
    /// What is known when the call is let in.
    type Note;

    /// Lets a call in and notes how its caller stands.
    ///
    /// # Errors
    /// Where it is over a limit.
    fn admit<K, H>(limiter: &RateLimiter<K, H>, now: Instant, key: &K) -> Result<Self::Note, RateLimited>
    where
        K: Hash + Eq + Clone,
        H: BuildHasher;

    /// Writes it onto the answer.
    fn announce(note: &Self::Note, answer: &mut R);
}

/// Nothing; answers may be of any type.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

/// `RateLimit-Policy` and `RateLimit`, on HTTP answers.
#[derive(Clone, Copy, Debug)]
pub struct Announced;

impl<R> Announce<R> for Silent {
    type Note = ();

    fn admit<K, H>(limiter: &RateLimiter<K, H>, now: Instant, key: &K) -> Result<(), RateLimited>
    where
        K: Hash + Eq + Clone,
        H: BuildHasher,
    {
        limiter.admit(now, key, 1)
    }

    fn announce((): &(), _: &mut R) {}
}

impl<B> Announce<Response<B>> for Announced {
    type Note = (HeaderValue, Option<HeaderValue>);

    fn admit<K, H>(limiter: &RateLimiter<K, H>, now: Instant, key: &K) -> Result<Self::Note, RateLimited>
    where
        K: Hash + Eq + Clone,
        H: BuildHasher,
    {
        let standing = limiter.check(now, key, 1)?;
        Ok((limiter.policy_field().clone(), limiter.field(&standing)))
    }

    fn announce((policy_field, field): &Self::Note, answer: &mut Response<B>) {
        answer.headers_mut().insert(RATELIMIT_POLICY, policy_field.clone());
        if let Some(field) = field {
            answer.headers_mut().insert(RATELIMIT, field.clone());
        }
    }
}

impl<S, K, F: Clone, A, H> Layer<S> for RateLimitLayer<K, F, A, H> {
    type Service = RateLimit<S, K, F, A, H>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit { inner, limiter: Arc::clone(&self.limiter), key_of: self.key_of.clone(), announce: PhantomData }
    }
}

impl<S, K, F, A, H, R> Service<R> for RateLimit<S, K, F, A, H>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    K: Hash + Eq + Clone,
    F: Fn(&R) -> K,
    A: Announce<S::Response>,
    H: BuildHasher,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RateLimitFuture<S::Future, A, A::Note>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let key = (self.key_of)(&request);
        let state = match A::admit(&self.limiter, clock::now().into_std(), &key) {
            Ok(note) => State::Running { future: self.inner.call(request), note },
            Err(limited) => State::Refused { error: Some(refusal(&self.limiter, limited)) },
        };
        RateLimitFuture { state, announce: PhantomData }
    }
}

/// A refusal costs more than a call that passes; it must not make those larger.
#[cold]
fn refusal<K, H>(limiter: &RateLimiter<K, H>, limited: RateLimited) -> Box<QuotaExceeded> {
    Box::new(QuotaExceeded {
        limited,
        retry_after_seconds: pushback_seconds(limited.0.wait, random::unit()),
        policy_field: limiter.policy_field().clone(),
        field: limiter.field(&limited.0),
    })
}

pin_project! {
    /// The future of a [`RateLimit`].
    pub struct RateLimitFuture<F, A, N> {
        #[pin]
        state: State<F, N>,
        announce: PhantomData<fn() -> A>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, N> {
        Refused { error: Option<Box<QuotaExceeded>> },
        Running { #[pin] future: F, note: N },
    }
}

impl<F, A, R, E> Future for RateLimitFuture<F, A, A::Note>
where
    F: Future<Output = Result<R, E>>,
    A: Announce<R>,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Refused { error } => match error.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => panic!("a future is not polled after it is ready"),
            },
            StateProjection::Running { future, note } => {
                let mut answer = ready!(future.poll(cx)).map_err(Into::into)?;
                A::announce(note, &mut answer);
                Poll::Ready(Ok(answer))
            }
        }
    }
}

// Derived ones would ask the same of `K` and `A`, of which there are none inside.
impl<K, F: Clone, A, H> Clone for RateLimitLayer<K, F, A, H> {
    fn clone(&self) -> Self {
        Self { limiter: Arc::clone(&self.limiter), key_of: self.key_of.clone(), announce: PhantomData }
    }
}

impl<S: Clone, K, F: Clone, A, H> Clone for RateLimit<S, K, F, A, H> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            limiter: Arc::clone(&self.limiter),
            key_of: self.key_of.clone(),
            announce: PhantomData,
        }
    }
}
