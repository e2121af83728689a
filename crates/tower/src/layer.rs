//! Idempotency for an HTTP service in the same process.

mod agree;
mod buffer;
mod builder;
mod inner;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, request::Parts};
use semel_core::{
    evidence::AnswerRules,
    problem::{Problem, ProblemKind},
};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

pub use self::{
    agree::ScopeError,
    builder::{BuildError, IdempotencyBuilder},
    inner::CurrentEffect,
};
use self::{
    buffer::{NotBuffered, whole_request},
    inner::Inner,
};
use crate::{Body, BoxError, Buffered, Effects, Identity, Keyed, clock};

/// Makes every effect of the service under it happen once.
///
/// For axum and any other HTTP service in tower's terms. A keyed request is buffered whole, claimed in the ledger,
/// handed to the inner service once per claim, and its answer is made durable before it is given. What the inner
/// service answers is the evidence, read by the layer's [`AnswerRules`]: by default 2xx, 3xx and final 4xx were
/// executed, 401, 403, 425 and 429 were not, and a 5xx, a panic or an error after the call leave what nobody knows. A
/// handler that knows better says so in a `Semel-Effect` header (`committed`, `none`, `unknown`).
///
/// The inner service finds the claim in the request's extensions as [`CurrentEffect`].
///
/// ```
/// use std::{convert::Infallible, sync::Arc};
///
/// use http::{Request, Response};
/// use semel_ledger::model::ModelLedger;
/// use semel_tower::{Body, IdempotencyLayer};
/// use tower::{ServiceBuilder, ServiceExt as _};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = IdempotencyLayer::builder(Arc::new(ModelLedger::new()?), "payments").anonymous().build()?;
/// let charges = Arc::new(std::sync::atomic::AtomicU32::new(0));
/// let counted = Arc::clone(&charges);
/// let service = ServiceBuilder::new().layer(layer).service_fn(move |_: Request<Body>| {
///     let charge = 1 + counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
///     async move { Ok::<_, Infallible>(Response::new(Body::from(format!("charge {charge}")))) }
/// });
///
/// for _ in 0..3 {
///     let request = Request::post("/pay").header("idempotency-key", "a1").body(Body::from("10"))?;
///     let response = service.clone().oneshot(request).await?;
///     assert_eq!(response.body().as_whole().unwrap(), "charge 1");
/// }
/// assert_eq!(charges.load(std::sync::atomic::Ordering::SeqCst), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct IdempotencyLayer {
    shared: Arc<Shared>,
}

/// The service that an [`IdempotencyLayer`] makes.
#[derive(Clone)]
pub struct Idempotency<S> {
    shared: Arc<Shared>,
    inner: S,
}

/// Parameters of the matched route's path, put into a request's extensions by whoever matched it: where `path:` keys
/// are read from.
#[derive(Clone, Debug, Default)]
pub struct PathParameters(pub Vec<(Box<str>, Box<str>)>);

struct Shared {
    effects: Effects,
    keyed: Keyed,
    rules: AnswerRules,
    methods: Vec<Method>,
    answer_bytes_max: usize,
    timeout: Duration,
    peers_are_trusted: bool,
}

type Answering<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl IdempotencyLayer {
    /// The layer's calls, to wait for those in flight ([`Effects::drained`]) before the process ends.
    #[must_use]
    pub fn effects(&self) -> &Effects {
        &self.shared.effects
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency { shared: Arc::clone(&self.shared), inner }
    }
}

impl<S, B, A> Service<Request<B>> for Idempotency<S>
where
    S: Service<Request<Body>, Response = Response<A>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    A: http_body::Body<Data = Bytes> + Send + 'static,
    A::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answering<S::Error>;

    /// Always ready: a recorded answer must not wait for an inner service that is busy. Whether that one is ready is
    /// asked for those calls that need it.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answering<S::Error> {
        let (shared, inner) = (Arc::clone(&self.shared), self.inner.clone());
        if !shared.methods.contains(request.method()) {
            return Box::pin(pass(inner, request.map(Body::streaming)));
        }
        Box::pin(async move {
            let deadline = clock::now() + shared.timeout;
            let (head, body) = request.into_parts();
            let body = match tokio::time::timeout_at(deadline, whole_request(body, shared.keyed.body_bytes_max)).await {
                Ok(Ok(body)) => body,
                Ok(Err(error)) => return Ok(shared.keyed.refuse(&shared.not_buffered(&error))),
                Err(_) => return Ok(shared.keyed.refuse(&Problem::new(ProblemKind::RequestTimeout))),
            };
            shared.answer(inner, head, body, deadline).await
        })
    }
}

impl Shared {
    async fn answer<S, A>(
        &self,
        service: S,
        mut head: Parts,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<A>> + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError> + Send,
        A: http_body::Body<Data = Bytes> + Send + 'static,
        A::Error: Into<BoxError>,
    {
        let (version, extensions) = (head.version, std::mem::take(&mut head.extensions));
        let identity = {
            let parameters = extensions.get::<PathParameters>().map(|parameters| parameters.0.as_slice());
            let path: Vec<_> = parameters.unwrap_or_default().iter().map(|(name, value)| (&**name, &**value)).collect();
            let message = Buffered::new(head, body);
            self.keyed.identify(self.effects.secret(), message, &path, self.peers_are_trusted, deadline)
        };
        match identity {
            Identity::Keyed(effect, echo) => {
                let executor = Inner::new(service, version, extensions, self.rules.clone(), self.answer_bytes_max);
                let conclusion = self.effects.perform(effect, &self.keyed.policy, &Arc::new(executor)).await;
                Ok(self.keyed.render(conclusion, &echo))
            }
            Identity::Refused(problem) => Ok(self.keyed.refuse(&problem)),
            Identity::Unkeyed(message) => {
                let mut request = inner::request_of(&message, version);
                *request.extensions_mut() = extensions;
                pass(service, request).await
            }
        }
    }

    fn not_buffered(&self, error: &NotBuffered) -> Problem {
        match error {
            NotBuffered::TooLarge => self.keyed.body_too_large(),
            NotBuffered::Broken(error) => {
                Problem::new(ProblemKind::RequestMalformed).detail(format!("the request body broke off: {error}"))
            }
        }
    }
}

/// Hands a request without an effect to the inner service.
async fn pass<S, A>(mut service: S, request: Request<Body>) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<A>>,
    A: http_body::Body<Data = Bytes> + Send + 'static,
    A::Error: Into<BoxError>,
{
    std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
    Ok(service.call(request).await?.map(Body::streaming))
}
