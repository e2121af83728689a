//! What the wire's failures mean to a caller: core's [problems](semel_core::problem), chosen by evidence.

use http::header::CONNECTION;
use http::{HeaderValue, Response};
use semel_core::dialect::Dialect;
use semel_core::evidence::{AttemptEnd, EffectMark, Lost, NotSent};
use semel_core::policy::pushback::pushback_seconds;
use semel_core::problem::{Problem, ProblemKind};

use crate::body::{BodyError, ResponseBody};
use crate::headers::host::TargetError;
use crate::listener::{CutOff, FramingError};
use crate::random;
use crate::upstream::{Failure, TransportError};

/// A problem as the answer to a request.
#[must_use]
pub fn respond(problem: &Problem, dialect: &Dialect) -> Response<ResponseBody> {
    let mut response = problem.render(dialect).map(ResponseBody::from);
    if ends_connection(problem.kind()) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// After these the caller's bytes cannot be trusted any further.
const fn ends_connection(kind: ProblemKind) -> bool {
    matches!(
        kind,
        ProblemKind::RequestMalformed
            | ProblemKind::HeadersTooLarge
            | ProblemKind::TargetTooLong
            | ProblemKind::VersionUnsupported
            | ProblemKind::RequestTimeout
    )
}

/// The request names no host, two hosts, or something else than a path.
#[must_use]
pub fn of_target(error: TargetError) -> Problem {
    Problem::new(ProblemKind::RequestMalformed).detail(error.to_string())
}

/// The caller was cut off; none if it would not listen.
#[must_use]
pub fn of_cut_off(cut_off: CutOff) -> Option<Problem> {
    let kind = match cut_off {
        CutOff::Framing(FramingError::Version) => ProblemKind::VersionUnsupported,
        CutOff::Framing(FramingError::HeadTooLarge) => ProblemKind::HeadersTooLarge,
        CutOff::Framing(FramingError::TargetTooLong) => ProblemKind::TargetTooLong,
        CutOff::Framing(_) => ProblemKind::RequestMalformed,
        CutOff::SlowHead | CutOff::SlowBody => ProblemKind::RequestTimeout,
        CutOff::SlowReader => return None,
    };
    Some(Problem::new(kind).detail(cut_off.to_string()))
}

/// The caller's own body broke before it was whole. Nothing has been sent.
#[must_use]
pub fn of_body(error: &BodyError) -> Problem {
    let cut_off = CutOff::find(error).and_then(of_cut_off);
    cut_off.unwrap_or_else(|| {
        Problem::new(ProblemKind::RequestMalformed).detail("The request body broke off before its end")
    })
}

/// The request body is larger than the route takes. Nothing has been sent.
#[must_use]
pub fn body_too_large(bytes_max: u64) -> Problem {
    let detail = format!("The request body is larger than the {bytes_max} bytes that this route takes");
    Problem::new(ProblemKind::BodyTooLarge).detail(detail)
}

/// Other bodies fill the memory that there is for them. Nothing has been sent.
#[must_use]
pub fn no_memory() -> Problem {
    Problem::new(ProblemKind::ReducedCapacity).detail("Too many request bodies are in memory at this moment")
}

/// An attempt without an answer, on a route that has no more attempts to make and keeps no record.
#[must_use]
pub fn of_failure(failure: &Failure) -> Problem {
    // The caller's body, streamed through, may be what broke.
    if let Some(problem) = CutOff::find(&failure.error).and_then(of_cut_off) {
        return problem.effect(mark(failure.end));
    }
    if let Some(bytes_max) = BodyError::find_too_large(&failure.error) {
        return body_too_large(bytes_max).effect(mark(failure.end));
    }
    let kind = match failure.end {
        AttemptEnd::NotSent(NotSent::RefusedHere) => ProblemKind::ReducedCapacity,
        AttemptEnd::NotSent(_) => ProblemKind::UpstreamUnavailable,
        AttemptEnd::Lost(Lost::Timeout) => ProblemKind::UpstreamTimeout,
        AttemptEnd::Lost(_) | AttemptEnd::Answered { .. } => ProblemKind::UpstreamFailed,
    };
    let problem = Problem::new(kind).detail(capitalised(&failure.error.to_string()));
    match failure.error {
        TransportError::BreakerOpen { retry_after } => {
            problem.retry_after_seconds(pushback_seconds(retry_after, random::unit()))
        }
        _ => problem,
    }
}

/// Errors begin small, for logs; details begin large, for people.
fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn mark(end: AttemptEnd) -> EffectMark {
    match end {
        AttemptEnd::NotSent(_) => EffectMark::None,
        _ => EffectMark::Unknown,
    }
}
