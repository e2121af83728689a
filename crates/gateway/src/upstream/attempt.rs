//! What came of one attempt: an answer or a failure, and always the evidence.

use std::time::{Duration, Instant};

use http::{Request, Response};
use semel_core::evidence::{AttemptEnd, EffectMark, Lost, NotSent};
use semel_core::headers::SEMEL_EFFECT;
use semel_core::policy::retry::Pushback;

use super::UpstreamBody;
use super::intake::Lease;
use crate::body::RequestBody;
use crate::clock;

/// One attempt at an upstream.
#[derive(Debug)]
pub struct Attempt {
    /// The endpoint that was tried; none where the attempt was refused here.
    pub endpoint: Option<EndpointIndex>,
    /// The answer, with its body still to come, or why there is none.
    pub outcome: Result<Response<UpstreamBody>, Box<Failure>>,
}

impl Attempt {
    /// Nothing is sent.
    #[must_use]
    pub fn refused(error: TransportError, request: Request<RequestBody>) -> Self {
        let end = AttemptEnd::NotSent(NotSent::RefusedHere);
        Self { endpoint: None, outcome: Err(Failure::boxed(end, error, Some(request))) }
    }

    /// Tells the endpoint how it did: now, or when the answer's body has ended.
    pub(super) fn account_to(&mut self, mut lease: Lease, is_hurried: bool) {
        let end = self.end();
        let is_late = matches!(end, AttemptEnd::Lost(Lost::Timeout) | AttemptEnd::NotSent(NotSent::ConnectTimeout));
        match &mut self.outcome {
            Err(_) if is_hurried && is_late => {}
            Err(_) => lease.record(&end, Pushback::Unsaid),
            Ok(response) => {
                let is_refusal = matches!(response.status().as_u16(), 429 | 500..);
                let pushback = match is_refusal {
                    true => Pushback::read(response.headers(), clock::wall()),
                    false => Pushback::Unsaid,
                };
                response.body_mut().account_to(lease, end, pushback);
            }
        }
    }

    /// The evidence. For an answer it holds as long as its body arrives whole: a body that breaks is
    /// [`Lost`](semel_core::evidence::Lost), told by the body's own error.
    #[must_use]
    pub fn end(&self) -> AttemptEnd {
        match &self.outcome {
            Ok(response) => AttemptEnd::Answered { status: response.status(), mark: mark(response.headers()) },
            Err(failure) => failure.end,
        }
    }
}

/// The upstream's own word on the effect.
fn mark(headers: &http::HeaderMap) -> Option<EffectMark> {
    headers.get(SEMEL_EFFECT).and_then(|value| value.to_str().ok()).and_then(EffectMark::parse)
}

/// The place of an endpoint in its upstream's list of urls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointIndex(pub(super) u8);

impl EndpointIndex {
    /// The endpoint at this place; there are at most [`ENDPOINTS_MAX`](super::ENDPOINTS_MAX).
    pub(super) fn at(index: usize) -> Self {
        Self(u8::try_from(index).unwrap_or(u8::MAX))
    }

    /// The index into the upstream's urls.
    #[must_use]
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

/// The endpoints that earlier attempts of the same call have tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    /// Adds an endpoint.
    pub fn insert(&mut self, endpoint: EndpointIndex) {
        self.0 |= 1 << endpoint.0;
    }

    /// True if the endpoint was tried.
    #[must_use]
    pub fn contains(self, endpoint: EndpointIndex) -> bool {
        self.0 & (1 << endpoint.0) != 0
    }
}

/// When to give up on an attempt.
#[derive(Clone, Copy, Debug)]
pub struct AttemptOptions {
    /// The first byte must leave by then: nobody waits for a connection any longer.
    pub begin_by: Instant,
    /// The head of the answer must be here by then; waiting for a connection counts.
    pub head_by: Instant,
    /// The time for the body of the answer.
    pub body: BodyTime,
    /// A fault on purpose: the answer breaks off after so many bytes.
    pub cut_after: Option<u64>,
    /// Its caller gives it less than half of the time that attempts have: that it came to nothing in time says nothing of
    /// the endpoint. Otherwise any caller could open a breaker for all.
    pub is_hurried: bool,
}

/// How long the body of an answer may take.
#[derive(Clone, Copy, Debug)]
pub enum BodyTime {
    /// All of it by that moment: for bodies that are buffered.
    By(Instant),
    /// As long as it goes on: no pause of the upstream may be longer than its `body_idle_timeout`. The time in which
    /// nobody asked for more does not count.
    WhileItFlows,
}

/// An attempt that brought no answer.
#[derive(Debug)]
pub struct Failure {
    /// What the failure proves.
    pub end: AttemptEnd,
    /// What happened, for logs.
    pub error: TransportError,
    /// The request, if it came back whole: it can be sent again as it is.
    pub returned: Option<Request<RequestBody>>,
}

impl Failure {
    pub(super) fn boxed(end: AttemptEnd, error: TransportError, returned: Option<Request<RequestBody>>) -> Box<Self> {
        Box::new(Self { end, error, returned })
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The name did not resolve.
    #[error("cannot resolve {host}")]
    Dns {
        /// The name.
        host: Box<str>,
        /// The resolver's error, if it had one.
        #[source]
        source: Option<std::io::Error>,
    },
    /// No connection could be made.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where to.
        address: std::net::SocketAddr,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// Connecting took too long.
    #[error("no connection to {host} in time")]
    ConnectTimeout {
        /// Where to.
        host: Box<str>,
    },
    /// Every endpoint has failed too often lately: none was asked.
    #[error("the upstream has failed too often lately and is not asked for a while")]
    BreakerOpen {
        /// When it will be asked again.
        retry_after: Duration,
    },
    /// The upstream refuses so many attempts that this one was not made.
    #[error("the upstream refuses so much that this was not sent to it")]
    Throttled,
    /// All connections are busy and the queue for them is full.
    #[error("all {connections_max} connections are busy and the queue for them is full")]
    QueueFull {
        /// The bound.
        connections_max: usize,
    },
    /// No connection became free in time.
    #[error("all {connections_max} connections stayed busy for too long")]
    QueueTimeout {
        /// The bound.
        connections_max: usize,
    },
    /// The head of the answer did not come in time.
    #[error("no answer in time")]
    HeadTimeout,
    /// The connection ended without a word.
    #[error("the connection ended without an answer")]
    Gone,
    /// The upstream tried to leave HTTP.
    #[error("the upstream switched protocols unasked")]
    SwitchedProtocols,
    /// The answer's length is ambiguous.
    #[error("the answer has two lengths, or a transfer coding other than chunked")]
    Framing,
    /// HTTP went wrong.
    #[error("the exchange failed")]
    Http(#[source] hyper::Error),
}
