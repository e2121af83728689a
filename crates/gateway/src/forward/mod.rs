//! The `forward` path: one attempt, streamed both ways, nothing remembered.

pub(crate) mod expect;

use std::time::Duration;

use http::header::{EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body;
use semel_core::dialect::Dialect;
use semel_core::evidence::AttemptEnd;
use semel_core::policy::admission::Priority;
use semel_core::policy::deadline::{self, Deadline};
use semel_core::policy::fault::Fault;
use semel_core::problem::{Problem, ProblemKind};

use crate::admission;
use crate::body::{RequestBody, ResponseBody};
use crate::clock;
use crate::fault::{self, Faults};
use crate::headers::forwarded::{ForwardedStyle, Peer};
use crate::headers::survey::Survey;
use crate::headers::trace::Trace;
use crate::headers::{hop, host, trace};
use crate::metrics::{Outcome, RouteMetrics};
use crate::problem;
use crate::upstream::{Attempt, AttemptOptions, BodyTime, Upstream};

/// What all requests of the gateway have in common once they may go on.
#[derive(Debug)]
pub struct Admitted<B> {
    /// The request, cleaned: one host, no hop-by-hop headers, forwarding headers written.
    pub request: Request<B>,
    /// The trace it belongs to.
    pub trace: Trace,
    /// Its id, which comes back with the answer.
    pub request_id: HeaderValue,
    says_timeout: bool,
}

impl<B> Admitted<B> {
    /// When the caller stops waiting, if it says so: `total` from now, or sooner.
    ///
    /// # Errors
    /// The answer to a caller that says it in a way that cannot be read.
    pub fn said_deadline(&self, total: Duration) -> Result<Option<Deadline>, Problem> {
        if !self.says_timeout {
            return Ok(None);
        }
        match deadline::asked_timeout(self.request.headers()) {
            Ok(asked) => Ok(Some(Deadline::of_call(clock::now(), total, asked))),
            Err(error) => Err(Problem::new(ProblemKind::RequestMalformed).detail(error.to_string())),
        }
    }
}

/// Checks and cleans a request that has just arrived.
///
/// # Errors
/// The answer to a request that cannot be served: two hosts, an upgrade, an unknown expectation.
pub fn admit<B>(mut request: Request<B>, peer: &Peer, style: ForwardedStyle) -> Result<Admitted<B>, Problem> {
    let seen = Survey::of(request.headers());
    host::normalise(&mut request, seen).map_err(problem::of_target)?;
    let headers = request.headers_mut();
    if seen.has(Survey::UPGRADE) && wants_websocket(headers) {
        // Other upgrades may be ignored (RFC 9110, 7.8): h2c callers go on in HTTP/1.1.
        return Err(Problem::new(ProblemKind::UpgradeUnsupported));
    }
    if seen.has(Survey::EXPECT)
        && !headers.get_all(EXPECT).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        return Err(Problem::new(ProblemKind::ExpectationFailed));
    }
    hop::strip_request(headers, seen);
    // Room for what is added here and for an attempt: one growth instead of two.
    headers.reserve(HEADERS_ADDED);
    peer.forward(headers, seen, style);
    let request_id = trace::request_id(headers, seen);
    let trace = Trace::begin(headers, seen);
    Ok(Admitted { request, trace, request_id, says_timeout: seen.has(Survey::TIMEOUT) })
}

/// Via, Forwarded, three X-Forwarded-*, x-request-id, traceparent, Semel-Attempt, Semel-Timeout.
const HEADERS_ADDED: usize = 9;

fn wants_websocket(headers: &HeaderMap) -> bool {
    let is_websocket = |protocol: &HeaderValue| protocol.as_bytes().to_ascii_lowercase().starts_with(b"websocket");
    headers.get_all(UPGRADE).iter().any(is_websocket)
}

/// Makes an upstream's answer fit for the caller: hop-by-hop headers and forgeries of semel's own are gone.
pub fn clean_answer<B>(response: &mut Response<B>) {
    hop::strip_response(response.headers_mut());
}

/// A route that forwards.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// Where to.
    pub upstream: &'a Upstream,
    /// The time until the head of the answer.
    pub head_timeout: Duration,
    /// What is counted.
    pub metrics: &'a RouteMetrics,
    /// How much its calls matter.
    pub priority: Priority,
    /// What goes wrong on purpose.
    pub faults: Option<&'a Faults>,
}

impl Forward<'_> {
    /// Sends a cleaned request once, streaming its body, and streams the answer back. A caller's `deadline` bounds the
    /// time until the answer's head, as the route does; an answer that has begun is not cut.
    pub async fn send(
        &self,
        mut request: Request<RequestBody>,
        trace: &Trace,
        deadline: Option<Deadline>,
    ) -> Response<ResponseBody> {
        let Self { upstream, metrics, .. } = *self;
        let respond = |problem: &Problem| problem::respond(problem, &Dialect::IETF);
        let patient_until = clock::now() + self.head_timeout;
        let patient_until = deadline.map_or(patient_until, |deadline| patient_until.min(deadline.instant()));
        let headers = request.headers();
        let in_flight = match admission::admit(upstream, self.priority, headers, patient_until, metrics).await {
            Ok(in_flight) => in_flight,
            Err(refused) => {
                metrics.outcome(Outcome::Refused);
                return respond(&refused.problem());
            }
        };
        let now = clock::now();
        let mut head_by = now + self.head_timeout;
        if let Some(deadline) = deadline {
            let Some(left) = deadline.attempt_timeout(now, self.head_timeout) else {
                metrics.outcome(Outcome::Refused);
                return respond(&Problem::new(ProblemKind::DeadlineExceeded));
            };
            head_by = now + left;
            deadline::write_timeout(request.headers_mut(), left);
        }
        frame(&mut request);
        trace.start_span(request.headers_mut());
        let is_hurried = head_by.saturating_duration_since(now) < self.head_timeout / 2;
        let fault = match self.faults {
            Some(faults) => faults.inject(request.headers(), head_by).await,
            None => Ok(Fault::default()),
        };
        let attempt = match fault {
            Ok(Fault { abort: Some(status), .. }) => {
                metrics.outcome(Outcome::Passed);
                return fault::aborted(status);
            }
            Ok(Fault { truncate: cut_after, .. }) => {
                let (begin_by, body) = (head_by, BodyTime::WhileItFlows);
                upstream.send(request, &AttemptOptions { begin_by, head_by, body, cut_after, is_hurried }).await
            }
            Err(error) => Attempt::refused(error, request),
        };
        let end = attempt.end();
        metrics.attempt(&end);
        metrics.outcome(Outcome::of_attempt(&end));
        match attempt.outcome {
            Ok(mut response) => {
                clean_answer(&mut response);
                if let Some(in_flight) = in_flight {
                    let in_flight = admission::measured(in_flight, Some(&end), 1);
                    response.body_mut().hold(in_flight);
                }
                response.map(ResponseBody::from)
            }
            Err(failure) => {
                drop(in_flight.map(|in_flight| admission::measured(in_flight, Some(&end), 1)));
                tracing::debug!(error = &failure.error as &dyn std::error::Error, ?end, "attempt failed");
                // The caller's time, not the upstream's fault.
                let is_late = deadline.is_some_and(|deadline| deadline.remaining(clock::now()).is_none());
                if is_late && matches!(end, AttemptEnd::NotSent(_)) {
                    return respond(&Problem::new(ProblemKind::DeadlineExceeded));
                }
                respond(&problem::of_failure(&failure))
            }
        }
    }
}

/// Gives a body of unknown length its framing: hyper would drop that of a GET.
fn frame(request: &mut Request<RequestBody>) {
    if matches!(request.body(), RequestBody::Stream(_)) && request.body().size_hint().exact().is_none() {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}
