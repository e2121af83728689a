//! Attempts of one call: send, see what it proves, send again where that is safe.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use semel_config::Route;
use semel_core::dialect::Dialect;
use semel_core::evidence::{AnswerRules, AttemptEnd, NotSent, Tally};
use semel_core::headers::{SEMEL_ATTEMPT, STRIPE_SHOULD_RETRY, X_SHOULD_RETRY};
use semel_core::policy::backoff::Backoff;
use semel_core::policy::budget::{RetryBudget, WindowBudget};
use semel_core::policy::deadline::{self, Deadline};
use semel_core::policy::ownership::{AttemptMark, attempts_here, is_owned_before};
use semel_core::policy::retry::{Ended, Pushback, Repeatable, Retries, RetryDecision, RetryPolicy, StopReason};
use semel_core::problem::{Problem, ProblemKind};
use semel_tower::{Buffered, Lease};

use crate::body::{RequestBody, ResponseBody};
use crate::buffer::{self, AnswerBytes, Memory, NotBuffered};
use crate::clock;
use crate::forward::{Admitted, clean_answer};
use crate::headers::trace::Trace;
use crate::metrics::{Outcome, RouteMetrics};
use crate::problem;
use crate::random;
use crate::upstream::{AttemptOptions, BodyTime, EndpointIndex, Failure, Tried, Upstream, UpstreamBody};

/// An answer that is not wanted is read to its end if it is this short and this quick, so that its connection can be
/// used again.
const DISCARD_BYTES_MAX: u64 = 16 * 1024;
const DISCARD_TIME_MAX: Duration = Duration::from_millis(20);

/// Headers that an attempt has beyond its caller's: key, effect, token, coding, mark, time, trace, host.
const ADDED_HEADERS: usize = 8;

/// How a route attempts; the same for all runtimes, so that they share one budget.
#[derive(Debug)]
pub struct Resend {
    rules: AnswerRules,
    policy: RetryPolicy,
    budget: RetryBudget,
    attempt_timeout: Duration,
    total_timeout: Duration,
}

/// A route's way to its upstream, in one runtime.
#[derive(Clone, Debug)]
pub struct Resending {
    /// How it attempts.
    pub resend: Arc<Resend>,
    /// Where to.
    pub upstream: Arc<Upstream>,
    /// What is counted.
    pub metrics: Arc<RouteMetrics>,
    /// What request bodies may take.
    pub memory: Memory,
    /// The largest body that streams through, in bytes.
    pub stream_bytes_max: u64,
}

/// What is sent, as often as it takes.
pub struct Outgoing<'a> {
    /// The request.
    pub message: &'a Buffered,
    /// The caller's headers that stay here.
    pub without: &'a [HeaderName],
    /// Changes the rest into the upstream's, on each attempt's own copy: there is rarely more than one.
    pub dress: &'a (dyn Fn(&mut HeaderMap) + Send + Sync),
    /// When a repeat cannot make the effect happen twice.
    pub repeatable: Repeatable,
    /// Each attempt is a span of it.
    pub trace: Trace,
    /// When the caller stops waiting: no first byte leaves after it, and upstreams are told that it is theirs as well.
    pub deadline: Deadline,
    /// What was sent is waited for until then, although the caller may be gone.
    pub give_up_by: Instant,
    /// What earlier attempts left.
    pub tally: Tally,
    /// The claim that must stand before each first byte, if there is one.
    pub lease: Option<&'a Lease>,
    /// Whether answers are taken into memory, up to that many bytes, or streamed.
    pub keep_bytes_max: Option<u64>,
}

/// What the attempts came to.
#[derive(Debug)]
pub struct Made {
    /// The joined verdict.
    pub tally: Tally,
    /// How the last attempt ended.
    pub end: Option<AttemptEnd>,
    /// Attempts begun.
    pub attempts: u32,
    /// The last answer that came.
    pub answer: Option<Response<ResponseBody>>,
    /// Why the last attempt brought none.
    pub failure: Option<Box<Failure>>,
    /// Why it was the last.
    pub stopped: Option<StopReason>,
}

impl Resend {
    /// For this route.
    #[must_use]
    pub fn new(route: &Route) -> Self {
        let rules = route.idempotency.as_ref().map_or_else(AnswerRules::default, |idempotency| AnswerRules {
            not_executed: idempotency.not_executed.iter().map(http::StatusCode::as_u16).collect(),
            settling: idempotency.final_statuses.iter().map(http::StatusCode::as_u16).collect(),
        });
        let backoff = Backoff { base: route.retry.backoff.base, cap: route.retry.backoff.cap, ..Backoff::default() };
        let budget = WindowBudget::new(clock::now(), route.retry.budget_ratio, WindowBudget::RETRIES_PER_SECOND_MIN);
        Self {
            rules,
            policy: RetryPolicy { attempts_max: route.retry.attempts, backoff },
            budget: RetryBudget::Window(budget),
            attempt_timeout: route.timeout.attempt,
            total_timeout: route.timeout.total,
        }
    }
}

impl Resending {
    /// Attempts until it is decided, nothing more may be sent, or time is over.
    pub async fn attempts(&self, outgoing: Outgoing<'_>) -> Made {
        let resend = &*self.resend;
        let attempts_max = attempts_here(&outgoing.message.headers, resend.policy.attempts_max);
        let policy = RetryPolicy { attempts_max, ..resend.policy };
        let mut retries = Retries::new(policy, outgoing.repeatable, true, outgoing.deadline);
        let mut made =
            Made { tally: outgoing.tally, end: None, attempts: 0, answer: None, failure: None, stopped: None };
        let mut tried = Tried::default();
        resend.budget.record_call(clock::now());
        loop {
            if outgoing.deadline.remaining(clock::now()).is_none() {
                made.stopped = Some(StopReason::Deadline);
                return made;
            }
            let mut begin_by = outgoing.deadline.instant();
            if let Some(lease) = outgoing.lease {
                let Ok(until) = lease.check().await else { return made };
                begin_by = begin_by.min(until.into_std());
            }
            let Tail { end, endpoint, pushback } =
                self.one(&outgoing, begin_by, retries.mark(), tried, &mut made).await;
            made.end = Some(end);
            let verdict = resend.rules.verdict(&end);
            made.tally = made.tally.after(&end, &resend.rules);
            let ended = Ended { end: &end, verdict, pushback, is_forwarded: false };
            match retries.after(ended, &resend.budget, clock::now(), random::unit()) {
                RetryDecision::Stop(reason) => {
                    made.stopped = Some(reason);
                    return made;
                }
                RetryDecision::Repeat { wait } => {
                    endpoint.into_iter().for_each(|endpoint| tried.insert(endpoint));
                    discard_stream(&mut made.answer).await;
                    if !wait.is_zero() {
                        tokio::time::sleep(wait).await;
                    }
                }
            }
        }
    }

    /// Answers one request of a route whose requests are repeatable by themselves: buffered, streamed back.
    pub async fn call(&self, admitted: Admitted<Incoming>, bytes_max: u64) -> Response<ResponseBody> {
        let refuse = |problem: &Problem| {
            self.metrics.outcome(Outcome::Refused);
            problem::respond(problem, &Dialect::IETF)
        };
        let deadline = match admitted.said_deadline(self.resend.total_timeout) {
            Ok(said) => said.unwrap_or_else(|| Deadline::of_call(clock::now(), self.resend.total_timeout, None)),
            Err(problem) => return refuse(&problem),
        };
        let Admitted { request, trace, .. } = admitted;
        let (head, body) = request.into_parts();
        let (body, _taken) = match buffer::request(body, bytes_max, &self.memory).await {
            Ok(body) => body,
            Err(NotBuffered::NoMemory) => return refuse(&problem::no_memory()),
            Err(NotBuffered::TooLarge) => return refuse(&problem::body_too_large(bytes_max)),
            Err(NotBuffered::Broken(error)) => return refuse(&problem::of_body(&error)),
        };
        self.send(&Buffered::new(head, body), trace, deadline).await
    }

    /// Sends a request that is repeatable by itself on, and streams the answer back.
    pub async fn send(&self, message: &Buffered, trace: Trace, deadline: Deadline) -> Response<ResponseBody> {
        let made = self
            .attempts(Outgoing {
                message,
                without: &[],
                dress: &|_| {},
                repeatable: Repeatable::Always,
                trace,
                deadline,
                give_up_by: deadline.instant(),
                tally: Tally::NOTHING_SENT,
                lease: None,
                keep_bytes_max: None,
            })
            .await;
        let end = made.end.unwrap_or(AttemptEnd::NotSent(NotSent::RefusedHere));
        self.metrics.outcome(Outcome::of_attempt(&end));
        let respond = |problem: &Problem| problem::respond(problem, &Dialect::IETF);
        let mut response = match (made.answer, made.failure) {
            (Some(mut answer), _) => {
                clean_answer(&mut answer);
                answer
            }
            (None, Some(failure)) => respond(&problem::of_failure(&failure)),
            (None, None) => respond(&Problem::new(ProblemKind::DeadlineExceeded)),
        };
        if made.stopped == Some(StopReason::BudgetSpent) {
            advise_no_retry(response.headers_mut());
        }
        response
    }

    /// One attempt; what it brought stands in `made`.
    async fn one(
        &self,
        outgoing: &Outgoing<'_>,
        begin_by: Instant,
        mark: AttemptMark,
        tried: Tried,
        made: &mut Made,
    ) -> Tail {
        let now = clock::now();
        let by = (now + self.resend.attempt_timeout).min(outgoing.give_up_by);
        let body = if outgoing.keep_bytes_max.is_some() { BodyTime::By(by) } else { BodyTime::WhileItFlows };
        let timeout = outgoing.deadline.attempt_timeout(now, self.resend.attempt_timeout).unwrap_or_default();
        let request = request(outgoing, mark, timeout);
        made.attempts += 1;
        let attempt = self.upstream.send(request, &AttemptOptions { begin_by, head_by: by, body, tried }).await;
        let mut tail = Tail { end: attempt.end(), endpoint: attempt.endpoint, pushback: Pushback::Unsaid };
        (made.answer, made.failure) = (None, None);
        match attempt.outcome {
            Err(failure) => {
                let end = &tail.end;
                tracing::debug!(error = &failure.error as &dyn std::error::Error, ?end, "an attempt brought no answer");
                made.failure = Some(failure);
            }
            Ok(response) => {
                tail.pushback = Pushback::read(response.headers(), clock::wall());
                match take(response, outgoing.keep_bytes_max).await {
                    Ok(response) => made.answer = Some(response),
                    Err(lost) => tail.end = AttemptEnd::Lost(lost),
                }
            }
        }
        self.metrics.attempt(&tail.end);
        tail
    }
}

/// What is known when an attempt is over.
struct Tail {
    end: AttemptEnd,
    endpoint: Option<EndpointIndex>,
    pushback: Pushback,
}

/// Everybody is retrying: one caller more would not help.
pub(crate) fn advise_no_retry(headers: &mut HeaderMap) {
    headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
    headers.insert(STRIPE_SHOULD_RETRY, HeaderValue::from_static("false"));
}

fn request(outgoing: &Outgoing<'_>, mark: AttemptMark, timeout: Duration) -> Request<RequestBody> {
    let mut request = Request::new(RequestBody::from(outgoing.message.body.clone()));
    *request.method_mut() = outgoing.message.method.clone();
    *request.uri_mut() = outgoing.message.uri.clone();
    let headers = request.headers_mut();
    // One table with room for what is added, and without what would be taken out again.
    headers.reserve(outgoing.message.headers.len() + ADDED_HEADERS);
    for (name, value) in &outgoing.message.headers {
        if !outgoing.without.contains(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    (outgoing.dress)(headers);
    if !headers.contains_key(SEMEL_ATTEMPT) || !is_owned_before(&outgoing.message.headers) {
        headers.insert(SEMEL_ATTEMPT, mark.to_header_value());
    }
    deadline::write_timeout(headers, timeout);
    outgoing.trace.start_span(headers);
    request
}

async fn take(
    response: Response<UpstreamBody>,
    keep_bytes_max: Option<u64>,
) -> Result<Response<ResponseBody>, semel_core::evidence::Lost> {
    let Some(bytes_max) = keep_bytes_max else { return Ok(response.map(ResponseBody::from)) };
    let (head, body) = response.into_parts();
    let body = match buffer::answer(&head.headers, body, bytes_max).await? {
        AnswerBytes::Whole(bytes) => bytes.into(),
        AnswerBytes::Streaming(body) => body,
    };
    Ok(Response::from_parts(head, body))
}

/// Gives up an answer that still holds its connection. One in memory stays: it may be the last that came.
async fn discard_stream(answer: &mut Option<Response<ResponseBody>>) {
    let Some(response) = answer.take_if(|answer| !matches!(answer.body(), ResponseBody::Empty | ResponseBody::Full(_)))
    else {
        return;
    };
    let (head, body) = response.into_parts();
    if let ResponseBody::Upstream(body) = body {
        let reading = buffer::answer(&head.headers, *body, DISCARD_BYTES_MAX);
        let _ = tokio::time::timeout(DISCARD_TIME_MAX, reading).await;
    }
}
