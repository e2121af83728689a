//! What a result says about whoever gave it.

use std::error::Error;

use http::Response;
use semel_core::{
    evidence::{AttemptEnd, EffectMark, Lost, NotSent},
    headers::SEMEL_EFFECT,
    policy::{response_class::ResponseClass, retry::Pushback},
};

use super::{refusal::is_refusal, timeout::Elapsed};
use crate::{BoxError, clock};

/// Reads the results of a service: for breakers, throttles, retries and hedges.
pub trait Classify<R, E> {
    /// How the attempt ended.
    fn end(&self, result: Result<&R, &E>) -> AttemptEnd;

    /// What it says about the health of who was asked.
    fn class(&self, result: Result<&R, &E>) -> ResponseClass {
        ResponseClass::of(&self.end(result))
    }

    /// When it wants to be asked again.
    fn pushback(&self, _result: Result<&R, &E>) -> Pushback {
        Pushback::Unsaid
    }
}

/// For any service: a response is a success, an error a failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByResult;

/// For HTTP services: by status and headers, as [`ResponseClass::of`] and [`Pushback::read`] say.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByStatus;

impl<R, E: 'static> Classify<R, E> for ByResult {
    fn end(&self, result: Result<&R, &E>) -> AttemptEnd {
        match result {
            Ok(_) => AttemptEnd::Answered { status: http::StatusCode::OK, mark: None },
            Err(error) => end_of_error(error),
        }
    }
}

impl<B, E: 'static> Classify<Response<B>, E> for ByStatus {
    fn end(&self, result: Result<&Response<B>, &E>) -> AttemptEnd {
        match result {
            Ok(response) => {
                let mark = response.headers().get(SEMEL_EFFECT);
                let mark = mark.and_then(|value| value.to_str().ok()).and_then(EffectMark::parse);
                AttemptEnd::Answered { status: response.status(), mark }
            }
            Err(error) => end_of_error(error),
        }
    }

    fn pushback(&self, result: Result<&Response<B>, &E>) -> Pushback {
        result.map_or(Pushback::Unsaid, |response| Pushback::read(response.headers(), clock::wall()))
    }
}

/// An error of this crate's layers says what it proves; of any other nobody knows what happened before it.
fn end_of_error<E: 'static>(error: &E) -> AttemptEnd {
    let boxed = (error as &dyn std::any::Any).downcast_ref::<BoxError>();
    let error: Option<&(dyn Error + 'static)> = boxed.map(|boxed| &**boxed as _);
    match error {
        Some(error) if is_refusal(error) => AttemptEnd::NotSent(NotSent::RefusedHere),
        Some(error) if error.is::<Elapsed>() => AttemptEnd::Lost(Lost::Timeout),
        _ => AttemptEnd::Lost(Lost::ConnectionLost),
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use semel_core::policy::breaker::BreakerOpen;

    use super::*;

    #[test]
    fn errors_say_what_they_prove() {
        let end = |error: BoxError| Classify::<(), BoxError>::end(&ByResult, Err(&error));
        let refusal = BreakerOpen { retry_after: Duration::from_secs(1) };
        assert_eq!(end(refusal.into()), AttemptEnd::NotSent(NotSent::RefusedHere));
        assert_eq!(end(Elapsed.into()), AttemptEnd::Lost(Lost::Timeout));
        assert_eq!(end("any other".into()), AttemptEnd::Lost(Lost::ConnectionLost));
        let plain = Classify::<(), std::fmt::Error>::end(&ByResult, Err(&std::fmt::Error));
        assert_eq!(plain, AttemptEnd::Lost(Lost::ConnectionLost));
    }

    #[test]
    fn responses_are_read_as_http() {
        let answer = |status: u16, headers: &[(&'static str, &'static str)]| {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            response.body(()).unwrap()
        };
        let class = |status| Classify::<_, Infallible>::class(&ByStatus, Ok(&answer(status, &[])));
        assert_eq!(class(404), ResponseClass::Success);
        assert_eq!(class(503), ResponseClass::Failure);
        assert_eq!(class(429), ResponseClass::Throttled);
        let committed = answer(500, &[("semel-effect", "committed"), ("retry-after", "3")]);
        let end = Classify::<_, Infallible>::end(&ByStatus, Ok(&committed));
        assert!(matches!(end, AttemptEnd::Answered { mark: Some(EffectMark::Committed), .. }));
        let pushback = Classify::<_, Infallible>::pushback(&ByStatus, Ok(&committed));
        assert_eq!(pushback, Pushback::After(Duration::from_secs(3)));
    }
}
