//! The gateway's own answers: `application/problem+json` (RFC 9457), always saying whether repeating is safe.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode, response};
use semel_core::evidence::{AttemptEnd, EffectMark, Lost, NotSent};

use crate::body::{BodyError, ResponseBody};
use crate::headers::host::TargetError;
use crate::listener::CutOff;
use crate::upstream::{Failure, SEMEL_EFFECT, TransportError};

const SEMEL_SOURCE: HeaderName = HeaderName::from_static("semel-source");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const STRIPE_SHOULD_RETRY: HeaderName = HeaderName::from_static("stripe-should-retry");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Something that the gateway itself has to say instead of the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// The last part of its type: `urn:semel:problem:<kind>`.
    pub kind: &'static str,
    /// What happened and what to do, in words.
    pub detail: Cow<'static, str>,
    /// What became of the effect, if there is anything to say of it.
    pub effect: Option<EffectMark>,
    /// Whether a client should simply send the request again.
    pub should_retry: bool,
    /// Seconds until that makes sense.
    pub retry_after_s: Option<u16>,
    /// The connection ends with this answer: its bytes cannot be trusted any further.
    pub closes: bool,
}

impl Problem {
    /// A problem after which nothing was sent upstream, and repeating the same request would not help.
    #[must_use]
    pub fn refused(status: StatusCode, kind: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let effect = Some(EffectMark::None);
        Self { status, kind, detail: detail.into(), effect, should_retry: false, retry_after_s: None, closes: false }
    }

    pub(crate) fn malformed(status: StatusCode, what: impl Into<Cow<'static, str>>) -> Self {
        Self { closes: true, ..Self::refused(status, "malformed-request", what) }
    }

    pub(crate) fn too_slow(what: impl Into<Cow<'static, str>>) -> Self {
        Self { closes: true, ..Self::refused(StatusCode::REQUEST_TIMEOUT, "request-timeout", what) }
    }

    /// Busy: nothing was done, and it will pass.
    fn busy(kind: &'static str, detail: &'static str) -> Self {
        let refused = Self::refused(StatusCode::SERVICE_UNAVAILABLE, kind, detail);
        Self { should_retry: true, retry_after_s: Some(1), ..refused }
    }

    pub(crate) fn too_many_connections() -> Self {
        let detail = "the gateway has as many connections as it may have; nothing was done";
        Self { closes: true, ..Self::busy("too-many-connections", detail) }
    }

    pub(crate) fn upgrade_unsupported() -> Self {
        let detail = "protocol upgrades such as WebSocket are not supported";
        Self::refused(StatusCode::NOT_IMPLEMENTED, "upgrade-unsupported", detail)
    }

    pub(crate) fn expectation_failed() -> Self {
        let detail = "the only expectation that can be met is 100-continue";
        Self::refused(StatusCode::EXPECTATION_FAILED, "expectation-failed", detail)
    }

    /// The request body was larger than the route takes; nothing was sent.
    #[must_use]
    pub fn body_too_large(bytes_max: usize) -> Self {
        let detail = format!("the request body is larger than the {bytes_max} bytes that this route takes");
        Self::refused(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
    }

    /// The answer as a response.
    #[must_use]
    pub fn into_response(self) -> Response<ResponseBody> {
        let (parts, body) = self.into_parts();
        Response::from_parts(parts, body.into())
    }

    pub(crate) fn into_parts(self) -> (response::Parts, Bytes) {
        let body = serde_json::json!({
            "type": format!("urn:semel:problem:{}", self.kind),
            "title": self.status.canonical_reason().unwrap_or("Problem"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = self.status;
        let headers = &mut parts.headers;
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(SEMEL_SOURCE, HeaderValue::from_static("gateway"));
        if let Some(effect) = self.effect {
            headers.insert(SEMEL_EFFECT, HeaderValue::from_static(effect.as_str()));
        }
        let retry = HeaderValue::from_static(if self.should_retry { "true" } else { "false" });
        headers.insert(X_SHOULD_RETRY, retry.clone());
        headers.insert(STRIPE_SHOULD_RETRY, retry);
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        (parts, body.to_string().into())
    }
}

impl From<TargetError> for Problem {
    fn from(error: TargetError) -> Self {
        Self::malformed(StatusCode::BAD_REQUEST, error.to_string())
    }
}

/// The caller's own body broke before it was whole.
impl From<&BodyError> for Problem {
    fn from(error: &BodyError) -> Self {
        match CutOff::find(error) {
            Some(CutOff::Framing(framing)) => Self::malformed(framing.status(), framing.to_string()),
            Some(slow) => Self::too_slow(slow.to_string()),
            None => Self::malformed(StatusCode::BAD_REQUEST, "the request body broke off before its end"),
        }
    }
}

/// An attempt without an answer, on a route that has no more attempts to make.
impl From<&Failure> for Problem {
    fn from(failure: &Failure) -> Self {
        if let TransportError::Http(error) = &failure.error
            && let Some(cut_off) = CutOff::find(error)
        {
            let slow = Self::too_slow(cut_off.to_string());
            return Self { effect: Some(mark(failure.end)), ..slow };
        }
        let (status, kind, detail) = match failure.end {
            AttemptEnd::NotSent(NotSent::RefusedHere) => {
                return Self::busy("upstream-busy", "all connections to the upstream are busy; nothing was sent");
            }
            AttemptEnd::NotSent(NotSent::ConnectTimeout) => {
                (StatusCode::GATEWAY_TIMEOUT, "upstream-unreachable", "no connection to the upstream in time")
            }
            AttemptEnd::NotSent(_) => {
                (StatusCode::BAD_GATEWAY, "upstream-unreachable", "the upstream could not be reached; nothing was sent")
            }
            AttemptEnd::Lost(Lost::Timeout) => (
                StatusCode::GATEWAY_TIMEOUT,
                "upstream-timeout",
                "the upstream did not answer in time; whether it acted is unknown",
            ),
            AttemptEnd::Lost(Lost::Malformed) => (
                StatusCode::BAD_GATEWAY,
                "upstream-malformed",
                "the upstream's answer is not valid HTTP; it may have acted",
            ),
            AttemptEnd::Lost(_) | AttemptEnd::Answered { .. } => (
                StatusCode::BAD_GATEWAY,
                "upstream-lost",
                "the connection to the upstream was lost before its answer; whether it acted is unknown",
            ),
        };
        let effect = mark(failure.end);
        let safe = effect == EffectMark::None;
        let retry_after_s = safe.then_some(1);
        Self {
            status,
            kind,
            detail: detail.into(),
            effect: Some(effect),
            should_retry: safe,
            retry_after_s,
            closes: false,
        }
    }
}

fn mark(end: AttemptEnd) -> EffectMark {
    match end {
        AttemptEnd::NotSent(_) => EffectMark::None,
        _ => EffectMark::Unknown,
    }
}
