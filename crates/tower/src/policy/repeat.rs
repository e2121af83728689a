//! Which requests may be sent a second time, and how they are marked.

use http::{Method, Request, Response};
use semel_core::{
    evidence::{AnswerRules, AttemptEnd, Verdict},
    headers::{GRPC_RETRY_PUSHBACK_MS, SEMEL_ATTEMPT, STRIPE_SHOULD_RETRY, X_SHOULD_RETRY},
    policy::{
        deadline::{Deadline, write_timeout},
        ownership::{AttemptMark, attempts_here, is_owned_before},
        response_class::ResponseClass,
        retry::{Pushback, Repeatable},
    },
};

use super::{
    classify::{ByResult, ByStatus, Classify},
    tried::Tried,
};
use crate::{Body, clock};

/// How the requests of a protocol are sent again: for retries and hedges.
pub trait Repeat<Req, R, E>: Classify<R, E> {
    /// Whether a repeat cannot do harm.
    fn repeatable(&self, request: &Req) -> Repeatable;

    /// The request once more, if it can be had.
    fn replay(&self, request: &Req) -> Option<Req>;

    /// Attempts that may be made here, of `attempts_max` at most: one where somebody before us retries.
    fn attempts_here(&self, _request: &Req, attempts_max: u32) -> u32 {
        attempts_max
    }

    /// When the caller stops waiting, if it said so.
    fn deadline(&self, _request: &Req) -> Option<Deadline> {
        None
    }

    /// Prepares a request of which there may be several attempts, before the first is made.
    fn prepare(&self, _request: &mut Req) {}

    /// Marks a request as an attempt.
    fn begin(&self, _request: &mut Req, _mark: AttemptMark) {}

    /// What an attempt's end proves about its effect.
    fn verdict(&self, end: &AttemptEnd) -> Verdict {
        AnswerRules::default().verdict(end)
    }

    /// The budget is spent: tells the caller not to retry either.
    fn advise_no_retry(&self, _response: &mut R) {}
}

/// A request body that may be had a second time. Every body that is `Clone` is one; so is [`Body`] while it is in memory.
pub trait ReplayBody: Sized {
    /// The body once more, if it can be had.
    fn replay(&self) -> Option<Self>;
}

impl<B: Clone> ReplayBody for B {
    fn replay(&self) -> Option<B> {
        Some(self.clone())
    }
}

impl ReplayBody for Body {
    fn replay(&self) -> Option<Self> {
        self.as_whole().cloned().map(Self::Whole)
    }
}

/// For any service whose requests can be cloned and may be repeated: a response is a success, an error a failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Always;

/// For HTTP services: requests of safe methods are repeated (RFC 9110 section 9.2.1), others only where it is proven
/// that they were not executed. A request whose body cannot be [had again](ReplayBody) is sent once.
///
/// Each attempt carries `Semel-Attempt: n/max` and what is left of the caller's time; an incoming mark that says that
/// somebody before us retries turns retries off here, so that attempts do not multiply along a chain.
#[derive(Clone, Debug, Default)]
pub struct HttpRepeat {
    rules: AnswerRules,
    are_idempotent: bool,
}

impl HttpRepeat {
    /// Says that the service handles every method idempotently: it honours the keys that it is sent, say.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.are_idempotent = true;
        self
    }

    /// Reads answers by other rules.
    #[must_use]
    pub const fn rules(mut self, rules: AnswerRules) -> Self {
        self.rules = rules;
        self
    }
}

impl<R, E: 'static> Classify<R, E> for Always {
    fn end(&self, result: Result<&R, &E>) -> AttemptEnd {
        ByResult.end(result)
    }
}

impl<Req: Clone, R, E: 'static> Repeat<Req, R, E> for Always {
    fn repeatable(&self, _request: &Req) -> Repeatable {
        Repeatable::Always
    }

    fn replay(&self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

impl<B, E: 'static> Classify<Response<B>, E> for HttpRepeat {
    fn end(&self, result: Result<&Response<B>, &E>) -> AttemptEnd {
        ByStatus.end(result)
    }

    fn class(&self, result: Result<&Response<B>, &E>) -> ResponseClass {
        ByStatus.class(result)
    }

    fn pushback(&self, result: Result<&Response<B>, &E>) -> Pushback {
        ByStatus.pushback(result)
    }
}

impl<A: ReplayBody, B, E: 'static> Repeat<Request<A>, Response<B>, E> for HttpRepeat {
    fn repeatable(&self, request: &Request<A>) -> Repeatable {
        let is_safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(request.method());
        if is_safe || self.are_idempotent { Repeatable::Always } else { Repeatable::IfNotExecuted }
    }

    fn replay(&self, request: &Request<A>) -> Option<Request<A>> {
        let mut again = Request::new(request.body().replay()?);
        *again.method_mut() = request.method().clone();
        *again.uri_mut() = request.uri().clone();
        *again.version_mut() = request.version();
        *again.headers_mut() = request.headers().clone();
        *again.extensions_mut() = request.extensions().clone();
        Some(again)
    }

    fn attempts_here(&self, request: &Request<A>, attempts_max: u32) -> u32 {
        // A hedge under a retry meets the retry's mark: that is this process's own, not an outer hop's.
        let is_ours = request.extensions().get::<Tried>().is_some();
        if is_ours { attempts_max } else { attempts_here(request.headers(), attempts_max) }
    }

    fn deadline(&self, request: &Request<A>) -> Option<Deadline> {
        request.extensions().get().copied()
    }

    fn prepare(&self, request: &mut Request<A>) {
        if request.extensions().get::<Tried>().is_none() {
            request.extensions_mut().insert(Tried::default());
        }
    }

    fn begin(&self, request: &mut Request<A>, mark: AttemptMark) {
        let headers = request.headers();
        if !is_owned_before(headers) || !headers.contains_key(SEMEL_ATTEMPT) {
            request.headers_mut().insert(SEMEL_ATTEMPT, mark.to_header_value());
        }
        let deadline = Repeat::<_, Response<B>, E>::deadline(self, request);
        if let Some(left) = deadline.and_then(|deadline| deadline.remaining(clock::now().into_std())) {
            write_timeout(request.headers_mut(), left);
        }
    }

    fn verdict(&self, end: &AttemptEnd) -> Verdict {
        self.rules.verdict(end)
    }

    fn advise_no_retry(&self, response: &mut Response<B>) {
        let is_grpc = response.headers().contains_key("grpc-status");
        let headers = response.headers_mut();
        headers.insert(X_SHOULD_RETRY, http::HeaderValue::from_static("false"));
        headers.insert(STRIPE_SHOULD_RETRY, http::HeaderValue::from_static("false"));
        if is_grpc {
            headers.insert(GRPC_RETRY_PUSHBACK_MS, http::HeaderValue::from_static("-1"));
        }
    }
}
