//! How much is taken on at a time.

mod future;
mod gate;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use semel_core::{
    policy::{
        admission::{AdmissionPolicy, AdmissionState, Priority, Refusal, RefusedWhy},
        pushback::pushback_seconds,
    },
    problem::{Problem, ProblemKind},
};
use tower_layer::Layer;
use tower_service::Service;

pub use self::{
    future::AdmissionFuture,
    gate::{AdmissionGate, InFlight},
};
use super::hold::{Hold, UntilAnswer, UntilBodyEnds};
use crate::{BoxError, random};

/// A limit on calls in flight, fixed or adaptive, and a short queue before it; what finds no place in time is refused with
/// [`ReducedCapacity`]. Calls of all services that one layer makes count together.
///
/// A call counts until its answer's body ends ([`until_answer`](Self::until_answer): until there is an answer), it fails, it
/// is dropped or it panics. For an adaptive limit only the time until the answer counts, and of HTTP answers not those
/// that say 429 or 5xx: a failure may be quicker than any work. Calls that run out of time ([`Elapsed`](super::Elapsed), or a
/// 504) halve the limit where they are most.
///
/// Which calls matter more than others is up to [`rank_by`](Self::rank_by). The layer belongs inside whatever answers from
/// a cache or a ledger, and outside retries: one call, one place.
///
/// ```
/// use http::{Request, Response};
/// use semel_core::policy::admission::{AdmissionPolicy, Concurrency, Priority};
/// use semel_tower::policy::{AdmissionLayer, Rank};
/// use tower::{ServiceBuilder, ServiceExt as _};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), semel_tower::BoxError> {
/// let policy = AdmissionPolicy { concurrency: Concurrency::Fixed(64), ..AdmissionPolicy::default() };
/// let layer = AdmissionLayer::new(policy).rank_by(|request: &Request<()>| {
///     let class = if request.uri().path().starts_with("/login") { Priority::VeryHigh } else { Priority::Medium };
///     Rank::new(class).tenant(&request.headers().get("x-tenant"))
/// });
/// let service = ServiceBuilder::new()
///     .layer(layer.clone())
///     .service_fn(|_: Request<()>| async { Ok::<_, semel_tower::BoxError>(Response::new("done".to_owned())) });
/// let answer = service.oneshot(Request::new(())).await?;
/// assert_eq!(layer.state().in_flight, 1, "until the body is read or dropped");
/// drop(answer);
/// assert_eq!(layer.state().in_flight, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AdmissionLayer<F = AllAlike, H = UntilBodyEnds> {
    gate: Arc<AdmissionGate>,
    rank: F,
    hold: PhantomData<fn() -> H>,
}

/// The service that an [`AdmissionLayer`] makes.
#[derive(Debug)]
pub struct AdmissionService<S, F = AllAlike, H = UntilBodyEnds> {
    inner: S,
    gate: Arc<AdmissionGate>,
    rank: F,
    hold: PhantomData<fn() -> H>,
}

/// How much a call matters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rank {
    priority: Priority,
    tenant: Option<u64>,
    deadline: Option<Instant>,
}

impl Rank {
    /// A call of this class.
    #[must_use]
    pub const fn new(priority: Priority) -> Self {
        Self { priority, tenant: None, deadline: None }
    }

    /// Whose call it is: the calls of one tenant are shed together.
    #[must_use]
    pub fn tenant(self, tenant: &(impl Hash + ?Sized)) -> Self {
        // The gate hashes it again, with a seed.
        let mut hasher = DefaultHasher::new();
        tenant.hash(&mut hasher);
        Self { tenant: Some(hasher.finish()), ..self }
    }

    /// When its caller will have gone.
    #[must_use]
    pub const fn deadline(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }
}

/// Says how much a call matters: any function of the request, or [`AllAlike`].
pub trait RankBy<R> {
    /// The request's rank.
    fn rank(&self, request: &R) -> Rank;
}

/// All calls matter alike.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllAlike;

impl<R> RankBy<R> for AllAlike {
    fn rank(&self, _: &R) -> Rank {
        Rank::default()
    }
}

impl<R, F: Fn(&R) -> Rank> RankBy<R> for F {
    fn rank(&self, request: &R) -> Rank {
        self(request)
    }
}

/// A call that found no place in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{refusal}")]
pub struct ReducedCapacity {
    /// Why.
    pub refusal: Refusal,
    /// For a Retry-After: the longer the overload lasts, the later, and jittered.
    pub retry_after_seconds: u32,
}

impl ReducedCapacity {
    fn new(refusal: Refusal) -> Self {
        Self { refusal, retry_after_seconds: pushback_seconds(refusal.retry_in, random::unit()) }
    }

    /// What the caller is told: `reduced-capacity`, 503; or `deadline-exceeded`, 504, where it had gone before.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self.refusal.why {
            RefusedWhy::DeadlineOver => Problem::new(ProblemKind::DeadlineExceeded),
            _ => Problem::new(ProblemKind::ReducedCapacity).retry_after_seconds(self.retry_after_seconds),
        }
    }
}

impl AdmissionLayer {
    /// A layer that lives by this policy.
    #[must_use]
    pub fn new(policy: AdmissionPolicy) -> Self {
        Self { gate: Arc::new(AdmissionGate::new(policy)), rank: AllAlike, hold: PhantomData }
    }
}

impl<F, H> AdmissionLayer<F, H> {
    /// Asks `rank` how much a call matters.
    #[must_use]
    pub fn rank_by<G>(self, rank: G) -> AdmissionLayer<G, H> {
        AdmissionLayer { gate: self.gate, rank, hold: PhantomData }
    }

    /// Counts a call only until there is an answer, which may be of any type.
    #[must_use]
    pub fn until_answer(self) -> AdmissionLayer<F, UntilAnswer> {
        AdmissionLayer { gate: self.gate, rank: self.rank, hold: PhantomData }
    }

    /// How things stand.
    #[must_use]
    pub fn state(&self) -> AdmissionState {
        self.gate.state()
    }
}

impl<F: Default, H> From<AdmissionPolicy> for AdmissionLayer<F, H> {
    fn from(policy: AdmissionPolicy) -> Self {
        Self { gate: Arc::new(AdmissionGate::new(policy)), rank: F::default(), hold: PhantomData }
    }
}

impl<S, F: Clone, H> Layer<S> for AdmissionLayer<F, H> {
    type Service = AdmissionService<S, F, H>;

    fn layer(&self, inner: S) -> Self::Service {
        AdmissionService { inner, gate: Arc::clone(&self.gate), rank: self.rank.clone(), hold: PhantomData }
    }
}

impl<S, F, H, R> Service<R> for AdmissionService<S, F, H>
where
    S: Service<R> + Clone,
    S::Error: Into<BoxError>,
    F: RankBy<R>,
    H: Hold<S::Response>,
{
    type Response = H::Answer<InFlight>;
    type Error = BoxError;
    type Future = AdmissionFuture<S, R, H>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        match self.gate.arrive(self.rank.rank(&request)) {
            gate::Arrived::Admitted(held) => AdmissionFuture::running(self.inner.call(request), held),
            // It would take what `poll_ready` may have reserved with it into the queue: another one is asked when its
            // turn comes.
            gate::Arrived::Waiting(waiting) => AdmissionFuture::waiting(waiting, self.inner.clone(), request),
            gate::Arrived::Refused(refusal) => AdmissionFuture::refused(ReducedCapacity::new(refusal)),
        }
    }
}

// Derived ones would ask the same of `H`, which is only a name.
impl<F: Clone, H> Clone for AdmissionLayer<F, H> {
    fn clone(&self) -> Self {
        Self { gate: Arc::clone(&self.gate), rank: self.rank.clone(), hold: PhantomData }
    }
}

impl<S: Clone, F: Clone, H> Clone for AdmissionService<S, F, H> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), gate: Arc::clone(&self.gate), rank: self.rank.clone(), hold: PhantomData }
    }
}
