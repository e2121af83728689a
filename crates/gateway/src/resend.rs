//! Attempts of one call: send, see what it proves, send again where that is safe.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use semel_config::{Backoff as Range, Budget, Route};
use semel_core::dialect::Dialect;
use semel_core::evidence::{AnswerRules, AttemptEnd, NotSent, Tally};
use semel_core::headers::{GRPC_RETRY_PUSHBACK_MS, SEMEL_ATTEMPT, STRIPE_SHOULD_RETRY, X_SHOULD_RETRY};
use semel_core::policy::admission::Priority;
use semel_core::policy::backoff::Backoff;
use semel_core::policy::budget::{QuotaBudget, RetryBudget, WindowBudget};
use semel_core::policy::deadline::{self, Deadline};
use semel_core::policy::fault::Fault;
use semel_core::policy::ownership::{AttemptMark, attempts_here, is_owned_before};
use semel_core::policy::retry::{Ended, Pushback, Repeatable, Retries, RetryDecision, RetryPolicy, StopReason};
use semel_core::problem::{Problem, ProblemKind};
use semel_tower::policy::{InFlight, ReducedCapacity};
use semel_tower::{Buffered, Lease};

use crate::admission;
use crate::body::{RequestBody, ResponseBody};
use crate::buffer::{self, AnswerBytes, Memory, NotBuffered};
use crate::clock;
use crate::fault::{self, Faults};
use crate::forward::{Admitted, Forward, clean_answer};
use crate::headers::trace::Trace;
use crate::hedge::Hedging;
use crate::metrics::{Outcome, RouteMetrics};
use crate::problem;
use crate::random;
use crate::upstream::{
    Attempt, AttemptOptions, BodyTime, EndpointIndex, Failure, Picked, TransportError, Tried, Upstream, UpstreamBody,
};

/// An answer that is not wanted is read to its end if it is this short and this quick, so that its connection can be
/// used again.
const DISCARD_BYTES_MAX: u64 = 16 * 1024;
const DISCARD_TIME_MAX: Duration = Duration::from_millis(20);

/// Headers that an attempt has beyond its caller's: key, effect, token, coding, mark, time, trace, host.
const ADDED_HEADERS: usize = 8;

/// How a route attempts; the same for all runtimes, so that they share one budget.
#[derive(Debug)]
pub struct Resend {
    pub(crate) rules: AnswerRules,
    policy: RetryPolicy,
    pub(crate) budget: RetryBudget,
    pub(crate) hedging: Option<Hedging>,
    /// What goes wrong on purpose.
    pub faults: Option<Faults>,
    /// How much its calls matter.
    pub priority: Priority,
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
            not_executed: idempotency.not_executed.iter().map(StatusCode::as_u16).collect(),
            settling: idempotency.final_statuses.iter().map(StatusCode::as_u16).collect(),
        });
        let retry = &route.retry;
        let Range { base, cap } = retry.backoff;
        let backoff = Backoff { base, cap, jitter: retry.jitter, ..Backoff::default() };
        let now = clock::now();
        Self {
            rules,
            policy: RetryPolicy { attempts_max: retry.attempts, backoff },
            budget: match retry.budget {
                Budget::Ratio(ratio) => {
                    RetryBudget::Window(WindowBudget::new(now, ratio, WindowBudget::RETRIES_PER_SECOND_MIN))
                }
                Budget::Quota => RetryBudget::Quota(QuotaBudget::full()),
            },
            hedging: route.hedge.map(|policy| Hedging::new(policy, now)),
            faults: route.fault.clone().map(|policy| Faults::new(policy, &route.name)),
            priority: route.priority,
            attempt_timeout: route.timeout.attempt,
            total_timeout: route.timeout.total,
        }
    }

    /// What all calls together may still repeat: left and in all.
    #[must_use]
    pub fn budget(&self) -> (u64, u64) {
        self.budget.remaining(clock::now())
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
            let Some(begin_by) = outgoing.begin_by().await else { return made };
            let mark = retries.mark();
            let tail = match &resend.hedging {
                Some(hedging) => self.hedged(hedging, &outgoing, begin_by, mark, &mut tried, &mut made).await,
                None => self.one(&outgoing, begin_by, mark, self.upstream.intake().pick(tried)).await,
            };
            made.attempts += 1;
            let Tail { end, endpoint, pushback, answer, failure } = tail;
            (made.end, made.answer, made.failure) = (Some(end), answer, failure);
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

    /// The way of what is sent once, streaming both ways.
    #[must_use]
    pub fn forward(&self, head_timeout: Duration) -> Forward<'_> {
        let Resend { priority, faults, .. } = &*self.resend;
        let (upstream, metrics) = (&*self.upstream, &*self.metrics);
        Forward { upstream, head_timeout, metrics, priority: *priority, faults: faults.as_ref() }
    }

    /// Has a call let in: see [`admission::admit`].
    pub(crate) async fn admit(
        &self,
        headers: &HeaderMap,
        deadline: Instant,
    ) -> Result<Option<InFlight>, ReducedCapacity> {
        admission::admit(&self.upstream, self.resend.priority, headers, deadline, &self.metrics).await
    }

    /// Sends a request that is repeatable by itself on, and streams the answer back.
    pub async fn send(&self, message: &Buffered, trace: Trace, deadline: Deadline) -> Response<ResponseBody> {
        let in_flight = match self.admit(&message.headers, deadline.instant()).await {
            Ok(in_flight) => in_flight,
            Err(refused) => {
                self.metrics.outcome(Outcome::Refused);
                return problem::respond(&refused.problem(), &Dialect::IETF);
            }
        };
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
        let in_flight = in_flight.map(|in_flight| made.measured(in_flight));
        let respond = |problem: &Problem| problem::respond(problem, &Dialect::IETF);
        let mut response = match (made.answer, made.failure) {
            (Some(mut answer), _) => {
                clean_answer(&mut answer);
                in_flight.into_iter().for_each(|in_flight| answer.body_mut().hold(in_flight));
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

    /// One attempt, at the endpoint that was picked for it.
    pub(crate) async fn one(
        &self,
        outgoing: &Outgoing<'_>,
        begin_by: Instant,
        mark: AttemptMark,
        picked: Result<Picked, TransportError>,
    ) -> Tail {
        let now = clock::now();
        let by = (now + self.resend.attempt_timeout).min(outgoing.give_up_by);
        let body = if outgoing.keep_bytes_max.is_some() { BodyTime::By(by) } else { BodyTime::WhileItFlows };
        let timeout = outgoing.deadline.attempt_timeout(now, self.resend.attempt_timeout).unwrap_or_default();
        let request = request(outgoing, mark, timeout);
        let fault = match &self.resend.faults {
            Some(faults) => faults.inject(&outgoing.message.headers, by.min(begin_by)).await,
            None => Ok(Fault::default()),
        };
        let attempt = match (picked, fault) {
            (Err(error), _) | (Ok(_), Err(error)) => Attempt::refused(error, request),
            (Ok(picked), Ok(Fault { abort: Some(status), .. })) => {
                return self.ended(Tail::aborted(status, picked.endpoint()));
            }
            (Ok(picked), Ok(fault)) => {
                let is_hurried = by.saturating_duration_since(now) < self.resend.attempt_timeout / 2;
                let options = AttemptOptions { begin_by, head_by: by, body, cut_after: fault.truncate, is_hurried };
                self.upstream.send_to(picked, request, &options).await
            }
        };
        let mut tail = Tail::new(attempt.end(), attempt.endpoint);
        match attempt.outcome {
            Err(failure) => {
                let end = &tail.end;
                tracing::debug!(error = &failure.error as &dyn std::error::Error, ?end, "an attempt brought no answer");
                tail.failure = Some(failure);
            }
            Ok(response) => {
                tail.pushback = Pushback::read(response.headers(), clock::wall());
                match take(response, outgoing.keep_bytes_max).await {
                    Ok(response) => tail.answer = Some(response),
                    Err(lost) => tail.end = AttemptEnd::Lost(lost),
                }
            }
        }
        self.ended(tail)
    }

    fn ended(&self, tail: Tail) -> Tail {
        self.metrics.attempt(&tail.end);
        tail
    }
}

impl Made {
    /// What the call took, for the limit on calls in flight.
    pub(crate) fn measured(&self, in_flight: InFlight) -> InFlight {
        admission::measured(in_flight, self.end.as_ref(), self.attempts)
    }
}

impl Outgoing<'_> {
    /// Until when a first byte may leave; none where the claim does not stand any more.
    pub(crate) async fn begin_by(&self) -> Option<Instant> {
        let deadline = self.deadline.instant();
        match self.lease {
            Some(lease) => lease.check().await.ok().map(|until| deadline.min(until.into_std())),
            None => Some(deadline),
        }
    }
}

/// What is known when an attempt is over.
pub(crate) struct Tail {
    pub(crate) end: AttemptEnd,
    pub(crate) endpoint: Option<EndpointIndex>,
    pub(crate) pushback: Pushback,
    pub(crate) answer: Option<Response<ResponseBody>>,
    pub(crate) failure: Option<Box<Failure>>,
}

impl Tail {
    fn new(end: AttemptEnd, endpoint: Option<EndpointIndex>) -> Self {
        Self { end, endpoint, pushback: Pushback::Unsaid, answer: None, failure: None }
    }

    fn aborted(status: StatusCode, endpoint: EndpointIndex) -> Self {
        let end = AttemptEnd::Answered { status, mark: None };
        Self { answer: Some(fault::aborted(status)), ..Self::new(end, Some(endpoint)) }
    }
}

/// Everybody is retrying: one caller more would not help.
pub(crate) fn advise_no_retry(headers: &mut HeaderMap) {
    headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
    headers.insert(STRIPE_SHOULD_RETRY, HeaderValue::from_static("false"));
    headers.insert(GRPC_RETRY_PUSHBACK_MS, HeaderValue::from_static("-1"));
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
