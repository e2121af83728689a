//! The inner service as what makes an effect happen.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Request, Response, Version};
use semel_core::{
    effect::Fence,
    evidence::{AnswerRules, AttemptEnd, EffectMark, Lost, NotSent},
    headers::SEMEL_EFFECT,
    scope::{EffectId, UpstreamKey},
};
use tower_service::Service;

use super::buffer;
use crate::{Body, BoxError, Buffered, Claimed, Execute, Execution, Lease, UpstreamAnswer, policy::is_refusal};

/// The claim under which a handler runs, in its request's extensions.
///
/// A handler that writes to a database can store `key` under a unique constraint in the same transaction: then the
/// effect happens once even if this process is paused past its lease.
#[derive(Clone, Debug)]
pub struct CurrentEffect {
    /// Its place in the ledger, as operators see it.
    pub id: EffectId,
    /// The claim; greater for a later one.
    pub fence: Fence,
    /// The same for every attempt of this effect, and of no other.
    pub key: UpstreamKey,
    /// Whether the claim still stands: worth asking before a late point of no return.
    pub lease: Arc<Lease>,
}

/// One call of the inner service, at most.
pub(super) struct Inner<S> {
    call: Mutex<Option<(S, Extensions)>>,
    version: Version,
    rules: AnswerRules,
    answer_bytes_max: usize,
}

impl<S> Inner<S> {
    pub(super) fn new(
        service: S,
        version: Version,
        extensions: Extensions,
        rules: AnswerRules,
        answer_bytes_max: usize,
    ) -> Self {
        Self { call: Mutex::new(Some((service, extensions))), version, rules, answer_bytes_max }
    }

    fn take(&self) -> Option<(S, Extensions)> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn ended(&self, claimed: &Claimed, end: AttemptEnd, answer: Option<UpstreamAnswer>) -> Execution {
        let tally = claimed.tally.after(&end, &self.rules);
        Execution { tally, end: Some(end), attempts: 1, answer }
    }
}

impl<S, A> Execute for Inner<S>
where
    S: Service<Request<Body>, Response = Response<A>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    A: http_body::Body<Data = Bytes> + Send + 'static,
    A::Error: Into<BoxError>,
{
    async fn execute(&self, claimed: Claimed) -> Execution {
        let nothing_begun = Execution { tally: claimed.tally, end: None, attempts: 0, answer: None };
        let Some((mut service, extensions)) = self.take() else { return nothing_begun };
        let ready = poll_fn(|cx| service.poll_ready(cx));
        match tokio::time::timeout_at(claimed.deadline, ready).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return self.ended(&claimed, AttemptEnd::NotSent(NotSent::RefusedHere), None),
            Err(_) => return nothing_begun,
        }
        if claimed.lease.check().await.is_err() {
            return nothing_begun;
        }
        let mut request = request_of(&claimed.message, self.version);
        *request.extensions_mut() = extensions;
        request.extensions_mut().insert(CurrentEffect {
            id: claimed.id,
            fence: claimed.fence,
            key: claimed.upstream_key,
            lease: Arc::clone(&claimed.lease),
        });
        let (head, body) = match service.call(request).await {
            Ok(response) => response.into_parts(),
            Err(error) => {
                let error = error.into();
                // A layer between this one and the handler: the handler was not called.
                if is_refusal(&*error) {
                    tracing::debug!(effect = %claimed.id, %error, "refused before the service was called");
                    return self.ended(&claimed, AttemptEnd::NotSent(NotSent::RefusedHere), None);
                }
                tracing::warn!(effect = %claimed.id, %error, "the service failed after it was called");
                return self.ended(&claimed, AttemptEnd::Lost(Lost::ConnectionLost), None);
            }
        };
        match buffer::answer(&head.headers, body, self.answer_bytes_max).await {
            Ok(body) => {
                let end = AttemptEnd::Answered { status: head.status, mark: mark(&head.headers) };
                let answer = UpstreamAnswer { status: head.status, headers: head.headers, body };
                self.ended(&claimed, end, Some(answer))
            }
            Err(error) => {
                tracing::warn!(effect = %claimed.id, %error, "the service's answer broke off");
                self.ended(&claimed, AttemptEnd::Lost(Lost::Truncated), None)
            }
        }
    }
}

/// The handler's own word, if it gives one.
fn mark(headers: &HeaderMap) -> Option<EffectMark> {
    headers.get(SEMEL_EFFECT).map(HeaderValue::to_str)?.ok().and_then(EffectMark::parse)
}

/// The buffered request for the inner service.
pub(super) fn request_of(message: &Buffered, version: Version) -> Request<Body> {
    let mut request = Request::new(Body::Whole(message.body.clone()));
    *request.method_mut() = message.method.clone();
    *request.uri_mut() = message.uri.clone();
    *request.version_mut() = version;
    *request.headers_mut() = message.headers.clone();
    request
}
