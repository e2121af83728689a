//! The `once` path: a request becomes an effect, is attempted upstream, and its caller gets what came of it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use semel_config::{Ack, ForwardKey, Idempotency, Keep, OnLedgerDown, OnUnknown, Route};
use semel_core::dialect::Dialect;
use semel_core::effect::{self, FOREVER_MS, Terms};
use semel_core::headers::{SEMEL_EFFECT_ID, SEMEL_SETTLEMENT, number};
use semel_core::key::KeySource;
use semel_core::policy::admission::RefusedWhy;
use semel_core::policy::deadline::Deadline;
use semel_core::policy::pushback::pushback_seconds;
use semel_core::policy::retry::{Repeatable, StopReason};
use semel_core::problem::Problem;
use semel_core::route::Params;
use semel_core::scope::UpstreamKey;
use semel_ledger::failpoint;
use semel_tower::policy::InFlight;
use semel_tower::{
    Body, Buffered, Claimed, Conclusion, EffectPolicy, EffectRequest, Effects, Execute, Execution, Finding, Identity,
    Keyed, Observe, ProbeTarget, Refused, Report, UpstreamAnswer,
};

use crate::body::{RequestBody, ResponseBody};
use crate::buffer::{self, NotBuffered, Taken};
use crate::clock;
use crate::forward::{Admitted, Forward, clean_answer};
use crate::headers::forwarded::Peer;
use crate::headers::trace::Trace;
use crate::metrics::{Outcome, RouteMetrics};
use crate::probe::Probe;
use crate::problem;
use crate::random;
use crate::resend::{Made, Outgoing, Resending, advise_no_retry};
use crate::upstream::TransportError;

/// A route whose effects happen once, in one runtime.
pub struct Once {
    keyed: Arc<Keyed>,
    attempting: Arc<Attempting>,
    effects: Effects,
    metrics: Arc<RouteMetrics>,
    total_timeout: Duration,
    on_ledger_down: OnLedgerDown,
}

/// The metrics and whoever else is told.
struct Observers {
    metrics: Arc<RouteMetrics>,
    other: Arc<dyn Observe>,
}

impl Observe for Observers {
    fn concluded(&self, report: &Report<'_>) {
        self.metrics.concluded(report);
        self.other.concluded(report);
    }
}

/// What attempts of this route's effects need.
struct Attempting {
    keyed: Arc<Keyed>,
    /// The headers that keys come in.
    key_headers: Vec<HeaderName>,
    resending: Resending,
    repeatable: Repeatable,
    response_bytes_max: u64,
    probe: Option<Probe>,
}

/// One call's way to its upstream.
struct Attempts {
    route: Arc<Attempting>,
    trace: Trace,
    give_up_by: std::time::Instant,
    told: Told,
    /// The call's place among those in flight.
    in_flight: Mutex<Option<InFlight>>,
    /// The body's memory: the effect may outlive its caller.
    _taken: Taken,
}

/// What the caller is told about asking again.
#[derive(Default)]
struct Told {
    /// All callers together have retried enough: this one is told not to.
    budget_spent: AtomicBool,
    /// Seconds until the upstream is asked again, where it is not asked now; 0: it is.
    refused_for_s: AtomicU32,
}

impl Told {
    fn advise(&self, headers: &mut HeaderMap) {
        if self.budget_spent.load(Ordering::Relaxed) {
            advise_no_retry(headers);
        }
        match self.refused_for_s.load(Ordering::Relaxed) {
            0 => {}
            seconds => drop(headers.insert(RETRY_AFTER, number(seconds.into()))),
        }
    }
}

impl Once {
    /// The route `route`, which has these values for its effects.
    #[must_use]
    pub fn new(
        route: &Route,
        idempotency: &Idempotency,
        resending: Resending,
        effects: Effects,
        observer: Arc<dyn Observe>,
    ) -> Self {
        let metrics = Arc::clone(&resending.metrics);
        let observer = Arc::new(Observers { metrics: Arc::clone(&metrics), other: observer });
        let keyed = Arc::new(keyed(route, idempotency, observer));
        let attempting = Attempting {
            key_headers: keyed.key.sources().iter().filter_map(header_of).cloned().collect(),
            keyed: Arc::clone(&keyed),
            resending,
            repeatable: match idempotency.on_unknown {
                OnUnknown::Retry { .. } => Repeatable::Always,
                OnUnknown::Hold | OnUnknown::Probe => Repeatable::IfNotExecuted,
            },
            response_bytes_max: idempotency.response_cap_bytes,
            probe: idempotency.probe.as_ref().and_then(Probe::new),
        };
        Self {
            keyed,
            attempting: Arc::new(attempting),
            effects,
            metrics,
            total_timeout: route.timeout.total,
            on_ledger_down: idempotency.on_ledger_down,
        }
    }

    /// How its refusals are worded.
    #[must_use]
    pub fn dialect(&self) -> &'static Dialect {
        self.keyed.dialect
    }

    /// The headers that keys come in.
    #[must_use]
    pub fn key_headers(&self) -> Vec<HeaderName> {
        self.attempting.key_headers.clone()
    }

    /// Answers one request. `path` is the path that the route was found by.
    pub async fn call(
        &self,
        admitted: Admitted<Incoming>,
        params: &Params,
        path: &str,
        peer: &Peer,
    ) -> Response<ResponseBody> {
        let path_params = self.path_params(params, path);
        if self.keyed.is_unkeyed(admitted.request.headers(), &path_params) {
            return self.pass_stream(admitted).await;
        }
        let began = clock::now();
        let said = match admitted.said_deadline(self.total_timeout) {
            Ok(said) => said,
            Err(problem) => return self.refuse(&problem),
        };
        let deadline = said.unwrap_or_else(|| Deadline::of_call(began, self.total_timeout, None));
        let Admitted { request, trace, .. } = admitted;
        let (head, body) = request.into_parts();
        let memory = &self.attempting.resending.memory;
        let (body, taken) = match buffer::request(body, self.keyed.body_bytes_max as u64, memory).await {
            Ok(body) => body,
            Err(NotBuffered::NoMemory) => return self.refuse(&problem::no_memory()),
            Err(NotBuffered::TooLarge) => return self.refuse(&self.keyed.body_too_large()),
            Err(NotBuffered::Broken(error)) => {
                self.metrics.outcome(Outcome::Refused);
                return problem::respond(&problem::of_body(&error), self.dialect());
            }
        };
        let message = Buffered::new(head, body);
        let secret = self.effects.secret();
        match self.keyed.identify(secret, message, &path_params, peer.is_trusted(), deadline.instant().into()) {
            Identity::Refused(problem) => self.refuse(&problem),
            Identity::Unkeyed(message) if is_idempotent(&message.method) => {
                self.attempting.resending.send(&message, trace, deadline).await
            }
            Identity::Unkeyed(message) => self.pass(message, trace, said).await,
            Identity::Keyed(request, echo) => {
                let attempts = Arc::new(Attempts {
                    route: Arc::clone(&self.attempting),
                    trace,
                    give_up_by: began + self.total_timeout,
                    told: Told::default(),
                    in_flight: Mutex::new(None),
                    _taken: taken,
                });
                let message = Arc::clone(&request.message);
                let _ = failpoint::hit("call.before-claim");
                let conclusion = self.perform(request, &attempts).await;
                let _ = failpoint::hit("call.before-ack");
                if self.passes_without_ledger(&conclusion) {
                    tracing::error!(
                        route = &*self.keyed.policy.terms.scope,
                        "THE LEDGER IS DOWN and this route passes requests on without it: they may happen twice"
                    );
                    // The same key as ever: an upstream that honours it is all that guards the effect now.
                    let key = secret.upstream_key(echo.id);
                    let mut message = Arc::unwrap_or_clone(message);
                    self.attempting.swap_key(&key, &mut message.headers);
                    return self.pass(message, trace, said).await;
                }
                let mut response = self.keyed.render(conclusion, &echo).map(ResponseBody::from);
                attempts.told.advise(response.headers_mut());
                response
            }
        }
    }

    async fn perform(&self, request: EffectRequest, attempts: &Arc<Attempts>) -> Conclusion {
        self.effects.perform(request, &self.keyed.policy, attempts).await
    }

    fn passes_without_ledger(&self, conclusion: &Conclusion) -> bool {
        self.on_ledger_down == OnLedgerDown::Open
            && matches!(conclusion, Conclusion::Refused { why: Refused::LedgerUnavailable, .. })
    }

    /// Sends a request that is no effect on, as it comes: again if that is harmless by its method, otherwise once.
    async fn pass_stream(&self, admitted: Admitted<Incoming>) -> Response<ResponseBody> {
        let resending = &self.attempting.resending;
        if is_idempotent(admitted.request.method()) {
            return resending.call(admitted, self.keyed.body_bytes_max as u64).await;
        }
        let said = match admitted.said_deadline(self.total_timeout) {
            Ok(said) => said,
            Err(problem) => return self.refuse(&problem),
        };
        let Admitted { request, trace, .. } = admitted;
        let bytes_max = resending.stream_bytes_max;
        if request.body().size_hint().lower() > bytes_max {
            return self.refuse(&problem::body_too_large(bytes_max));
        }
        self.forward().send(request.map(|body| RequestBody::streaming(body, bytes_max)), &trace, said).await
    }

    /// Sends a request that is no effect, or is not guarded, on, once.
    async fn pass(&self, message: Buffered, trace: Trace, deadline: Option<Deadline>) -> Response<ResponseBody> {
        let Buffered { method, uri, headers, body } = message;
        let mut request = http::Request::new(RequestBody::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        self.forward().send(request, &trace, deadline).await
    }

    fn forward(&self) -> Forward<'_> {
        self.attempting.resending.forward(self.total_timeout)
    }

    fn refuse(&self, problem: &Problem) -> Response<ResponseBody> {
        self.metrics.outcome(Outcome::Refused);
        self.keyed.refuse(problem).map(ResponseBody::from)
    }

    fn path_params<'a>(&'a self, params: &Params, path: &'a str) -> Vec<(&'a str, &'a str)> {
        let names = self.keyed.key.sources().iter().filter_map(|source| match source {
            KeySource::Path(name) => Some(&**name),
            KeySource::Header(_) | KeySource::Json(_) => None,
        });
        names.filter_map(|name| Some((name, params.get(name, path)?))).collect()
    }
}

impl Attempting {
    /// Puts the upstream's key in the place of the caller's, which stays here unless it is forwarded as it is.
    fn swap_key(&self, key: &UpstreamKey, headers: &mut HeaderMap) {
        let key = self.keyed.key_for_upstream(headers, key);
        for name in &self.key_headers {
            headers.remove(name);
        }
        headers.insert(self.keyed.forward_header.clone(), key);
    }
}

impl Attempts {
    /// Changes the caller's headers, without its key, into those that every attempt has.
    fn dress(&self, claimed: &Claimed, headers: &mut HeaderMap) {
        let keyed = &self.route.keyed;
        let key = keyed.key_for_upstream(&claimed.message.headers, &claimed.upstream_key);
        headers.insert(keyed.forward_header.clone(), key);
        // One coding, so that the recorded answer suits every duplicate.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        // With these two the upstream may settle the effect itself: which one it is, and that it was asked.
        if let Ok(id) = HeaderValue::from_bytes(&claimed.id.to_ascii()) {
            headers.insert(SEMEL_EFFECT_ID, id);
        }
        if let Ok(mut token) = HeaderValue::from_str(claimed.settlement_token.as_str()) {
            token.set_sensitive(true);
            headers.insert(SEMEL_SETTLEMENT, token);
        }
    }
}

/// Whether repeating a request with this method is harmless (RFC 9110, 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::PUT | Method::DELETE)
}

impl Execute for Attempts {
    async fn admit(&self, request: &EffectRequest) -> Result<(), Refused> {
        let admitted = self.route.resending.admit(&request.message.headers, request.deadline.into_std()).await;
        let in_flight = admitted.map_err(|refused| {
            self.told.refused_for_s.store(refused.retry_after_seconds, Ordering::Relaxed);
            match refused.refusal.why {
                RefusedWhy::DeadlineOver => Refused::DeadlineExceeded,
                RefusedWhy::Shed | RefusedWhy::Displaced | RefusedWhy::Waited => Refused::ReducedCapacity,
            }
        })?;
        *self.in_flight.lock().unwrap_or_else(PoisonError::into_inner) = in_flight;
        Ok(())
    }

    fn dismiss(&self) {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    async fn execute(&self, claimed: Claimed) -> Execution {
        let outgoing = Outgoing {
            message: &claimed.message,
            without: &self.route.key_headers,
            dress: &|headers| self.dress(&claimed, headers),
            repeatable: self.route.repeatable,
            trace: self.trace,
            deadline: Deadline::at(claimed.deadline.into_std()),
            give_up_by: self.give_up_by,
            tally: claimed.tally,
            lease: Some(&claimed.lease),
            keep_bytes_max: Some(self.route.response_bytes_max),
        };
        let _ = failpoint::hit("call.after-claim");
        let made = self.route.resending.attempts(outgoing).await;
        // An answer that is streamed on keeps its call in flight.
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).take();
        let in_flight = in_flight.map(|in_flight| made.measured(in_flight));
        let Made { tally, end, attempts, mut answer, stopped, failure } = made;
        if let (Some(in_flight), Some(answer)) = (in_flight, &mut answer) {
            answer.body_mut().hold(in_flight);
        }
        let _ = failpoint::hit("call.after-answer");
        self.told.budget_spent.store(stopped == Some(StopReason::BudgetSpent), Ordering::Relaxed);
        if let Some(TransportError::BreakerOpen { retry_after }) = failure.map(|failure| failure.error) {
            self.told.refused_for_s.store(pushback_seconds(retry_after, random::unit()), Ordering::Relaxed);
        }
        Execution { tally, end, attempts, answer: answer.map(upstream_answer) }
    }

    async fn probe(&self, target: ProbeTarget) -> Finding {
        let Some(probe) = &self.route.probe else { return Finding::StillUnknown };
        let key = self.route.keyed.key_for_upstream(&target.message.headers, &target.upstream_key);
        match probe.ask(&key, target.deadline.into_std(), self.route.response_bytes_max).await {
            Ok(Some(answer)) => Finding::Executed(upstream_answer(answer)),
            Ok(None) => Finding::Fenced,
            Err(why) => {
                tracing::info!(effect = %target.id, why, "the status resource did not say what became of an effect");
                Finding::StillUnknown
            }
        }
    }
}

fn upstream_answer(mut response: Response<ResponseBody>) -> UpstreamAnswer {
    clean_answer(&mut response);
    let (head, body) = response.into_parts();
    let body = match body {
        ResponseBody::Empty => Body::default(),
        ResponseBody::Full(bytes) => Body::Whole(bytes),
        streaming => Body::streaming(streaming),
    };
    UpstreamAnswer { status: head.status, headers: head.headers, body }
}

fn header_of(source: &KeySource) -> Option<&HeaderName> {
    match source {
        KeySource::Header(name) => Some(name),
        KeySource::Json(_) | KeySource::Path(_) => None,
    }
}

fn keyed(route: &Route, idempotency: &Idempotency, observer: Arc<dyn Observe>) -> Keyed {
    let policy = EffectPolicy {
        lease: idempotency.lease,
        join: idempotency.join,
        waiters_max: idempotency.waiters_max,
        keep_headers: idempotency.store_headers.clone(),
        keep_bodies: idempotency.store_body,
        ack: match idempotency.ack {
            Ack::Settled => semel_tower::Ack::Settled,
            Ack::Early => semel_tower::Ack::Early,
        },
        observer,
        ..EffectPolicy::new(Arc::new(terms(route, idempotency)))
    };
    Keyed {
        key: idempotency.key.clone(),
        required: idempotency.required,
        principal: idempotency.principal.clone(),
        dialect: match idempotency.dialect {
            semel_config::Dialect::Ietf => &Dialect::IETF,
            semel_config::Dialect::Stripe => &Dialect::STRIPE,
        },
        forward_key: match idempotency.forward_key {
            ForwardKey::Hmac => semel_tower::ForwardKey::Hmac,
            ForwardKey::AsIs => semel_tower::ForwardKey::AsIs,
        },
        forward_header: idempotency.forward_header.clone(),
        body_bytes_max: usize::try_from(route.request_cap_bytes).unwrap_or(usize::MAX),
        ..Keyed::new(Arc::new(policy))
    }
}

fn terms(route: &Route, idempotency: &Idempotency) -> Terms {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(FOREVER_MS);
    let (on_unknown, upstream_keep_ms) = match idempotency.on_unknown {
        OnUnknown::Hold => (effect::OnUnknown::Hold, 0),
        OnUnknown::Retry { upstream_keep } => (effect::OnUnknown::Retry, millis(upstream_keep)),
        OnUnknown::Probe => (effect::OnUnknown::Probe, 0),
    };
    Terms {
        scope: route.scope.as_str().into(),
        upstream: route.upstream.identity.as_str().into(),
        on_unknown,
        upstream_keep_ms,
        keep_ms: match idempotency.keep {
            Keep::For(window) => millis(window),
            Keep::Forever => FOREVER_MS,
        },
        marker_ms: millis(idempotency.marker),
    }
}
