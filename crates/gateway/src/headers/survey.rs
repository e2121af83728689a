//! One look at all headers, so that what is not there costs no look-up.

use http::header::{
    CONNECTION, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName};

/// Which of the headers that the gateway cares for are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey(u32);

impl Survey {
    pub(crate) const CONNECTION: Self = Self(1);
    pub(crate) const KEEP_ALIVE: Self = Self(1 << 1);
    pub(crate) const PROXY_CONNECTION: Self = Self(1 << 2);
    pub(crate) const TE: Self = Self(1 << 3);
    pub(crate) const TRANSFER_ENCODING: Self = Self(1 << 4);
    /// `Upgrade` or the `HTTP2-Settings` that goes with it.
    pub(crate) const UPGRADE: Self = Self(1 << 5);
    /// `Proxy-Authorization` or `Proxy-Authenticate`.
    pub(crate) const PROXY: Self = Self(1 << 6);
    pub(crate) const EXPECT: Self = Self(1 << 7);
    pub(crate) const HOST: Self = Self(1 << 8);
    pub(crate) const HOST_AGAIN: Self = Self(1 << 9);
    /// `Forwarded`, any `X-Forwarded-*`, or `X-Real-IP`.
    pub(crate) const FORWARDED: Self = Self(1 << 10);
    pub(crate) const REQUEST_ID: Self = Self(1 << 11);
    pub(crate) const REQUEST_ID_AGAIN: Self = Self(1 << 12);
    pub(crate) const TRACEPARENT: Self = Self(1 << 13);
    pub(crate) const TRACEPARENT_AGAIN: Self = Self(1 << 14);
    pub(crate) const TRACESTATE: Self = Self(1 << 15);
    /// A name that only semel may use: `Semel-*` or `Idempotent-Replayed`.
    pub(crate) const RESERVED: Self = Self(1 << 16);
    /// How long the caller waits: `Semel-Timeout`, `grpc-timeout` or `x-envoy-expected-rq-timeout-ms`.
    pub(crate) const TIMEOUT: Self = Self(1 << 17);

    /// Looks at every header line once.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.iter().map(|(name, _)| name) {
            match classify(name) {
                Some((first, again)) if seen.has(first) => seen.0 |= first.0 | again.0,
                Some((first, _)) => seen.0 |= first.0,
                None => {}
            }
        }
        seen
    }

    /// True if `flag` is set.
    pub(crate) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }
}

/// The flag of a header, and that of its repetition.
fn classify(name: &HeaderName) -> Option<(Survey, Survey)> {
    let once = |flag| Some((flag, Survey::default()));
    match *name {
        HOST => Some((Survey::HOST, Survey::HOST_AGAIN)),
        CONNECTION => once(Survey::CONNECTION),
        TRANSFER_ENCODING => once(Survey::TRANSFER_ENCODING),
        EXPECT => once(Survey::EXPECT),
        TE => once(Survey::TE),
        UPGRADE => once(Survey::UPGRADE),
        FORWARDED => once(Survey::FORWARDED),
        PROXY_AUTHENTICATE | PROXY_AUTHORIZATION => once(Survey::PROXY),
        _ => match name.as_str() {
            "x-request-id" => Some((Survey::REQUEST_ID, Survey::REQUEST_ID_AGAIN)),
            "traceparent" => Some((Survey::TRACEPARENT, Survey::TRACEPARENT_AGAIN)),
            "tracestate" => once(Survey::TRACESTATE),
            "keep-alive" => once(Survey::KEEP_ALIVE),
            "proxy-connection" => once(Survey::PROXY_CONNECTION),
            "http2-settings" => once(Survey::UPGRADE),
            "x-real-ip" => once(Survey::FORWARDED),
            "idempotent-replayed" => once(Survey::RESERVED),
            "semel-timeout" => once(Survey(Survey::RESERVED.0 | Survey::TIMEOUT.0)),
            "grpc-timeout" | "x-envoy-expected-rq-timeout-ms" => once(Survey::TIMEOUT),
            name if name.starts_with("semel-") => once(Survey::RESERVED),
            name if name.starts_with("x-forwarded-") => once(Survey::FORWARDED),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn sees_what_is_there_and_what_is_there_twice() {
        let mut headers = HeaderMap::new();
        assert_eq!(Survey::of(&headers), Survey::default());
        headers.append(HOST, HeaderValue::from_static("a"));
        headers.append("semel-x", HeaderValue::from_static("a"));
        headers.append("x-forwarded-port", HeaderValue::from_static("a"));
        headers.append("accept", HeaderValue::from_static("a"));
        assert!(!Survey::of(&headers).has(Survey::TIMEOUT));
        headers.append("semel-timeout", HeaderValue::from_static("1"));
        let once = Survey::of(&headers);
        assert!(once.has(Survey::HOST) && once.has(Survey::RESERVED) && once.has(Survey::FORWARDED));
        assert!(once.has(Survey::TIMEOUT));
        assert!(!once.has(Survey::HOST_AGAIN) && !once.has(Survey::TE) && !once.has(Survey::TRACEPARENT));
        headers.append(HOST, HeaderValue::from_static("b"));
        assert!(Survey::of(&headers).has(Survey::HOST_AGAIN));
    }
}
