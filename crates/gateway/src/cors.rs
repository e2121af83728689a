//! Cross-origin resource sharing (Fetch standard, section 3.2), computed for the origin that asks now, also on
//! problems and replays: a stored answer never carries the headers of another origin.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{Method, Response, StatusCode};

use crate::body::ResponseBody;

/// semel's own response headers that a script may read.
const EXPOSED: [&str; 8] = [
    "idempotency-key",
    "idempotency-window",
    "idempotent-replayed",
    "retry-after",
    "semel-effect",
    "semel-effect-id",
    "semel-source",
    "x-request-id",
];

/// The method that a preflight request asks for; none if this is no preflight (Fetch standard, section 3.2.2).
#[must_use]
pub fn asked_method(method: &Method, headers: &HeaderMap) -> Option<Method> {
    let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|_| *method == Method::OPTIONS)?;
    Method::from_bytes(asked.as_bytes()).ok().filter(|_| headers.contains_key(ORIGIN))
}

/// A route's answers to browsers, with its header values made once.
#[derive(Debug)]
pub struct Cors {
    origins: Vec<HeaderValue>,
    any_origin: bool,
    credentials: bool,
    allow_headers: HeaderValue,
    expose_headers: HeaderValue,
    max_age_s: HeaderValue,
}

impl Cors {
    /// From a route's settings; `key_header` may be sent as well, if its key comes in a header.
    #[must_use]
    pub fn new(settings: &semel_config::Cors, key_headers: &[HeaderName]) -> Self {
        let allow = settings.allow_headers.iter().chain(key_headers).map(HeaderName::as_str);
        let allow = ["content-type", "authorization", "semel-timeout"].into_iter().chain(allow);
        let expose = EXPOSED.into_iter().chain(settings.expose_headers.iter().map(HeaderName::as_str));
        Self {
            origins: settings.origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect(),
            any_origin: settings.origins.iter().any(|origin| origin == "*"),
            credentials: settings.credentials,
            allow_headers: list(allow),
            expose_headers: list(expose),
            max_age_s: HeaderValue::from(settings.max_age.as_secs()),
        }
    }

    /// The answer to a preflight request that asks for this method.
    #[must_use]
    pub fn preflight(&self, asked: &Method, headers: &HeaderMap) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::Empty);
        *response.status_mut() = StatusCode::NO_CONTENT;
        let answer = response.headers_mut();
        if self.allow_origin(headers.get(ORIGIN), answer) {
            // A method is a token, which is a valid value.
            let asked = HeaderValue::from_str(asked.as_str()).unwrap_or(HeaderValue::from_static("POST"));
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, asked);
            if headers.contains_key(ACCESS_CONTROL_REQUEST_HEADERS) {
                answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, self.allow_headers.clone());
            }
            answer.insert(ACCESS_CONTROL_MAX_AGE, self.max_age_s.clone());
        }
        response
    }

    /// Writes the headers of an answer to `origin`, in place of what an upstream may have said.
    pub fn decorate(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        for name in [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_HEADERS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            ACCESS_CONTROL_MAX_AGE,
        ] {
            answer.remove(name);
        }
        if self.allow_origin(origin, answer) {
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, self.expose_headers.clone());
        }
    }

    fn allow_origin(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) -> bool {
        if self.any_origin {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            return true;
        }
        // Also when this origin is refused: a cache must not give that answer to another.
        answer.append(VARY, HeaderValue::from_static("origin"));
        let Some(origin) = origin.filter(|origin| self.origins.contains(origin)) else { return false };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> HeaderValue {
    let names: Vec<_> = names.collect();
    // Header names are valid in a header value.
    HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        let settings = semel_config::Cors {
            origins: origins.iter().map(ToString::to_string).collect(),
            allow_headers: vec![HeaderName::from_static("x-tenant")],
            expose_headers: vec![],
            credentials,
            max_age: Duration::from_secs(600),
        };
        Cors::new(&settings, &[HeaderName::from_static("idempotency-key")])
    }

    fn from(origin: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))])
    }

    #[test]
    fn a_preflight_is_answered_for_a_listed_origin_only() {
        let cors = cors(&["https://shop.example"], true);
        let mut asked = from("https://shop.example");
        assert_eq!(asked_method(&Method::OPTIONS, &asked), None, "a plain OPTIONS is not a preflight");
        asked.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        assert_eq!(asked_method(&Method::OPTIONS, &asked), Some(Method::POST));
        assert_eq!(asked_method(&Method::POST, &asked), None);
        asked.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("idempotency-key"));
        let answer = cors.preflight(&Method::POST, &asked);
        let headers = answer.headers();
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://shop.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        let allowed = headers[ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
        assert!(allowed.contains("idempotency-key") && allowed.contains("x-tenant"), "{allowed}");
        asked.insert(ORIGIN, HeaderValue::from_static("https://evil.example"));
        let answer = cors.preflight(&Method::POST, &asked);
        assert!(!answer.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    }

    #[test]
    fn a_stored_answer_never_carries_another_origin() {
        let cors = cors(&["https://a.example", "https://b.example"], false);
        let mut answer = HeaderMap::new();
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://a.example"));
        cors.decorate(from("https://b.example").get(ORIGIN), &mut answer);
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "https://b.example");
        assert_eq!(answer[VARY], "origin");
        cors.decorate(None, &mut answer);
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    }

    #[test]
    fn any_origin_needs_no_vary() {
        let mut answer = HeaderMap::new();
        cors(&["*"], false).decorate(None, &mut answer);
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!answer.contains_key(VARY));
    }
}
