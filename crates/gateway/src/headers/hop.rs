//! Headers that end at this hop (RFC 9110, 7.6.1), and names that only semel may use.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE,
    EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::survey::Survey;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// `Semel-*` headers that a caller may send: they can only make semel do less (a shorter deadline, fewer attempts) or
/// name a call.
///
/// The last three ask for faults, which only a route with `fault.by_header` grants.
const FROM_CALLERS: [&str; 6] = [
    "semel-attempt",
    "semel-call",
    "semel-timeout",
    "semel-fault-abort",
    "semel-fault-delay-ms",
    "semel-fault-truncate",
];

/// `Semel-*` headers that an upstream may send: its word on the effect.
const FROM_UPSTREAMS: [&str; 1] = ["semel-effect"];

/// Headers that stay even if `Connection` names them: removing them would change what the request means or who sent it
/// (RFC 9110 forbids to name end-to-end fields there; attackers do it to strip them).
const NEVER_NAMED: [&str; 14] = [
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "forwarded",
    "host",
    "idempotency-key",
    "prefer",
    "traceparent",
    "tracestate",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Removes what must not go on from a caller to an upstream.
///
/// `TE: trailers` stays (the gateway forwards trailers), named in `Connection` as RFC 9110, 10.1.4 asks.
pub(crate) fn strip_request(headers: &mut HeaderMap, seen: Survey) {
    let trailers = seen.has(Survey::TE) && accepts_trailers(headers);
    remove(headers, seen, &FROM_CALLERS);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Removes what must not go on from an upstream to a caller, forgeries of semel's own headers included.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    let seen = Survey::of(headers);
    remove(headers, seen, &FROM_UPSTREAMS);
}

/// Removes from trailers what only means something before the content (RFC 9110, 6.5.1).
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    const FORBIDDEN: [HeaderName; 16] = [
        AUTHORIZATION,
        CACHE_CONTROL,
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        COOKIE,
        EXPECT,
        FORWARDED,
        HOST,
        SET_COOKIE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    let seen = Survey::of(trailers);
    remove(trailers, seen, &[]);
    for name in &FORBIDDEN {
        trailers.remove(name);
    }
}

fn remove(headers: &mut HeaderMap, seen: Survey, allowed: &[&str]) {
    if seen.has(Survey::CONNECTION) {
        let mut names = Vec::new();
        headers.get_all(CONNECTION).iter().for_each(|value| named(value, &mut names));
        names.iter().for_each(|name| drop(headers.remove(name)));
    }
    if seen.has(Survey::RESERVED) {
        let is_reserved = |name: &HeaderName| {
            let name = name.as_str();
            name == "idempotent-replayed" || name.starts_with("semel-") && !allowed.contains(&name)
        };
        let names: Vec<_> = headers.keys().filter(|name| is_reserved(name)).cloned().collect();
        names.iter().for_each(|name| drop(headers.remove(name)));
    }
    for (flag, name) in [
        (Survey::CONNECTION, &CONNECTION),
        (Survey::KEEP_ALIVE, &KEEP_ALIVE),
        (Survey::PROXY_CONNECTION, &PROXY_CONNECTION),
        (Survey::TE, &TE),
        (Survey::TRANSFER_ENCODING, &TRANSFER_ENCODING),
        (Survey::UPGRADE, &UPGRADE),
        (Survey::UPGRADE, &HTTP2_SETTINGS),
        (Survey::PROXY, &PROXY_AUTHENTICATE),
        (Survey::PROXY, &PROXY_AUTHORIZATION),
    ] {
        if seen.has(flag) {
            headers.remove(name);
        }
    }
}

/// Adds the headers that a `Connection` value names.
fn named(value: &HeaderValue, extra: &mut Vec<HeaderName>) {
    let options = value.as_bytes();
    if options.eq_ignore_ascii_case(b"keep-alive") || options.eq_ignore_ascii_case(b"close") {
        return;
    }
    for option in options.split(|byte| *byte == b',') {
        if let Ok(name) = HeaderName::from_bytes(option.trim_ascii())
            && !NEVER_NAMED.contains(&name.as_str())
        {
            extra.push(name);
        }
    }
}

/// True if the sender takes trailers.
fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(|value| {
        value.as_bytes().split(|byte| *byte == b',').any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn removes_hop_by_hop_and_named() {
        let mut map = headers(&[
            ("connection", "keep-alive, X-Secret , upgrade"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("proxy-authorization", "Basic eA=="),
            ("x-secret", "1"),
            ("x-open", "2"),
            ("accept", "*/*"),
        ]);
        let seen = Survey::of(&map);
        strip_request(&mut map, seen);
        assert_eq!(names(&map), ["accept", "x-open"]);
    }

    #[test]
    fn several_connection_lines_all_count() {
        let mut map = headers(&[("x-a", "1"), ("x-b", "1")]);
        map.append(CONNECTION, HeaderValue::from_static("x-a"));
        map.append(CONNECTION, HeaderValue::from_static("x-b"));
        let seen = Survey::of(&map);
        strip_request(&mut map, seen);
        assert!(map.is_empty());
    }

    #[test]
    fn connection_cannot_strip_what_matters() {
        let mut map = headers(&[
            ("connection", "host, content-length, authorization, idempotency-key, x-forwarded-for"),
            ("host", "a"),
            ("content-length", "1"),
            ("authorization", "Bearer t"),
            ("idempotency-key", "k"),
            ("x-forwarded-for", "1.2.3.4"),
        ]);
        let seen = Survey::of(&map);
        strip_request(&mut map, seen);
        assert_eq!(names(&map), ["authorization", "content-length", "host", "idempotency-key", "x-forwarded-for"]);
    }

    #[test]
    fn trailers_are_the_only_te() {
        let mut map = headers(&[("te", "gzip;q=0.5, Trailers"), ("connection", "te")]);
        let seen = Survey::of(&map);
        strip_request(&mut map, seen);
        assert_eq!(map[TE], "trailers");
        assert_eq!(map[CONNECTION], "te");
        let mut map = headers(&[("te", "gzip"), ("connection", "te")]);
        let seen = Survey::of(&map);
        strip_request(&mut map, seen);
        assert!(map.is_empty());
    }

    #[test]
    fn callers_keep_only_documented_names() {
        let mut map = headers(&[
            ("semel-timeout", "5s"),
            ("semel-attempt", "1/3"),
            ("semel-effect", "committed"),
            ("semel-effect-id", "x"),
            ("semel-source", "gateway"),
            ("idempotent-replayed", "true"),
        ]);
        let seen = Survey::of(&map);
        strip_request(&mut map, seen);
        assert_eq!(names(&map), ["semel-attempt", "semel-timeout"]);
    }

    #[test]
    fn upstreams_cannot_forge() {
        let mut map = headers(&[
            ("semel-effect", "committed"),
            ("semel-effect-id", "x"),
            ("semel-source", "gateway"),
            ("idempotent-replayed", "true"),
            ("connection", "close"),
            ("content-type", "text/plain"),
        ]);
        strip_response(&mut map);
        assert_eq!(names(&map), ["content-type", "semel-effect"]);
    }

    #[test]
    fn trailers_carry_no_framing() {
        let mut map =
            headers(&[("content-length", "5"), ("host", "evil"), ("x-checksum", "abc"), ("semel-source", "x")]);
        strip_trailers(&mut map);
        assert_eq!(names(&map), ["x-checksum"]);
    }
}
