//! Header names and lists that several layers share.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// The caller's key, as in the IETF Idempotency-Key draft.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// On an answer that is a replay: `true`. The name Stripe uses.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// How long, in seconds, a settled answer is replayed.
pub const IDEMPOTENCY_WINDOW: HeaderName = HeaderName::from_static("idempotency-window");
/// What happened to the effect: `none`, `committed`, `unknown` or `open`.
pub const SEMEL_EFFECT: HeaderName = HeaderName::from_static("semel-effect");
/// The effect's id: the operators' handle.
pub const SEMEL_EFFECT_ID: HeaderName = HeaderName::from_static("semel-effect-id");
/// Who speaks: `gateway` or `upstream`.
pub const SEMEL_SOURCE: HeaderName = HeaderName::from_static("semel-source");
/// `n/max` of an attempt, so that only the outermost hop retries.
pub const SEMEL_ATTEMPT: HeaderName = HeaderName::from_static("semel-attempt");
/// On an attempt: the token with which the upstream may settle the effect itself. It sends the same header back.
pub const SEMEL_SETTLEMENT: HeaderName = HeaderName::from_static("semel-settlement");
/// Milliseconds that remain until the caller's deadline.
pub const SEMEL_TIMEOUT: HeaderName = HeaderName::from_static("semel-timeout");
/// Whether an SDK should repeat: read by OpenAI's and Anthropic's clients.
pub const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// Whether an SDK should repeat: read by Stripe's clients.
pub const STRIPE_SHOULD_RETRY: HeaderName = HeaderName::from_static("stripe-should-retry");
/// Envoy's name for the time an upstream is given, in milliseconds.
pub const X_ENVOY_EXPECTED_RQ_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// Envoy's count of the attempt, from 1.
pub const X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// gRPC's deadline, relative.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// gRPC's count of attempts before this one.
pub const GRPC_PREVIOUS_RPC_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
/// gRPC's word on when to retry, in milliseconds; negative: not at all.
pub const GRPC_RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// Every limit that a caller is under, of draft-ietf-httpapi-ratelimit-headers-10.
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// What is left of a caller's quotas (draft-ietf-httpapi-ratelimit-headers).
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// A number as a header value, in one allocation; `HeaderValue::from` needs two.
#[must_use]
pub fn number(number: u64) -> HeaderValue {
    // Digits are visible ASCII.
    HeaderValue::from_str(itoa::Buffer::new().format(number)).unwrap_or(HeaderValue::from_static("0"))
}

/// Headers that describe one connection and never pass a proxy: RFC 9110 section 7.6.1, with RFC 9112's and the
/// historic `Keep-Alive` and `Proxy-Connection` that it lists.
///
/// What a `Connection` header nominates is hop-by-hop too: see [`is_hop_by_hop`]. `Proxy-Authorization` and
/// `Proxy-Authenticate` are addressed to the next proxy, which is us.
pub const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    PROXY_CONNECTION,
    KEEP_ALIVE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
];

/// Whether `name` must not pass a proxy, given the message's own `Connection` options.
///
/// ```
/// use semel_core::headers::is_hop_by_hop;
/// let mut headers = http::HeaderMap::new();
/// headers.insert("connection", "close, X-Private".parse().unwrap());
/// assert!(is_hop_by_hop(&"x-private".parse().unwrap(), &headers));
/// assert!(!is_hop_by_hop(&"content-type".parse().unwrap(), &headers));
/// ```
#[must_use]
pub fn is_hop_by_hop(name: &HeaderName, headers: &HeaderMap) -> bool {
    HOP_BY_HOP.contains(name) || connection_options(headers).any(|option| option.eq_ignore_ascii_case(name.as_str()))
}

/// The options of all `Connection` headers (RFC 9110 section 7.6.1), trimmed; values that are not text are skipped.
pub fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|option| !option.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits() {
        assert_eq!([number(0), number(u64::MAX)], ["0", "18446744073709551615"]);
    }

    #[test]
    fn nominated_headers_are_hop_by_hop() {
        let mut headers = HeaderMap::new();
        assert!(is_hop_by_hop(&header::TRANSFER_ENCODING, &headers));
        assert!(!is_hop_by_hop(&header::CONTENT_TYPE, &headers));
        headers.append(header::CONNECTION, "close , x-a".parse().unwrap());
        headers.append(header::CONNECTION, ",X-B,,".parse().unwrap());
        assert_eq!(connection_options(&headers).collect::<Vec<_>>(), ["close", "x-a", "X-B"]);
        assert!(is_hop_by_hop(&HeaderName::from_static("x-b"), &headers));
    }
}
