//! Faults on purpose, so that users can rehearse what their callers do when an upstream is slow, failing or cut off.
//!
//! After Envoy's HTTP fault filter (`envoy.filters.http.fault`): a delay and an abort, each for a share of the requests
//! and where headers ask for it; and a truncated answer, which Envoy does not have and clients handle worst.

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// A request's own delay, in milliseconds, where the policy lets headers ask.
pub const SEMEL_FAULT_DELAY: HeaderName = HeaderName::from_static("semel-fault-delay-ms");
/// A request's own abort: the status to answer with.
pub const SEMEL_FAULT_ABORT: HeaderName = HeaderName::from_static("semel-fault-abort");
/// A request's own truncation: bytes of the answer's body that go out.
pub const SEMEL_FAULT_TRUNCATE: HeaderName = HeaderName::from_static("semel-fault-truncate");

/// The longest delay: a fault rehearses an upstream that is slow, not a leak of connections.
pub const DELAY_MAX: Duration = Duration::from_secs(60);

/// Which faults a route injects. The default injects none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultPolicy {
    /// Waiting before the request goes on.
    pub delay: Option<Injected<Duration>>,
    /// Answering instead of the upstream.
    pub abort: Option<Injected<StatusCode>>,
    /// Cutting the answer's body off after so many bytes.
    pub truncate: Option<Injected<u64>>,
    /// Only requests with this header, and this value where there is one, are touched. Without it all are.
    pub only: Option<(HeaderName, Option<HeaderValue>)>,
    /// Whether a request may ask for its own faults by [`SEMEL_FAULT_DELAY`], [`SEMEL_FAULT_ABORT`] and
    /// [`SEMEL_FAULT_TRUNCATE`]. Never on a route that strangers reach: it lets them hold connections open.
    pub by_header: bool,
}

/// A fault and how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Injected<T> {
    /// The fault.
    pub fault: T,
    /// Share of requests, `0.0..=1.0`; what is outside is clamped.
    pub share: f64,
}

/// What is to be done to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Wait first.
    pub delay: Option<Duration>,
    /// Then answer with this instead of passing the request on. Nothing is executed.
    pub abort: Option<StatusCode>,
    /// Or pass it on, and break the answer's body off after so many bytes.
    pub truncate: Option<u64>,
}

impl FaultPolicy {
    /// What is to be done to a request with these headers. The numbers of `rands`, in `0.0..1.0`, decide about delay,
    /// abort and truncation, each by itself.
    ///
    /// A header that asks for nonsense asks for nothing.
    #[must_use]
    pub fn decide(&self, headers: &HeaderMap, rands: [f64; 3]) -> Fault {
        if !self.touches(headers) {
            return Fault::default();
        }
        let [delay, abort, truncate] = rands;
        let asked = |name| self.by_header.then(|| number(headers, name)).flatten();
        let status =
            |code: u64| StatusCode::from_u16(u16::try_from(code).ok()?).ok().filter(|code| code.as_u16() >= 400);
        let fault = Fault {
            delay: asked(&SEMEL_FAULT_DELAY).map(Duration::from_millis).or_else(|| draw(self.delay, delay)),
            abort: asked(&SEMEL_FAULT_ABORT).and_then(status).or_else(|| draw(self.abort, abort)),
            truncate: asked(&SEMEL_FAULT_TRUNCATE).or_else(|| draw(self.truncate, truncate)),
        };
        Fault { delay: fault.delay.map(|delay| delay.min(DELAY_MAX)), ..fault }
    }

    fn touches(&self, headers: &HeaderMap) -> bool {
        self.only.as_ref().is_none_or(|(name, value)| {
            headers.get_all(name).iter().any(|found| value.as_ref().is_none_or(|value| value == found))
        })
    }
}

impl Fault {
    /// Whether the request is left alone.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.delay.is_none() && self.abort.is_none() && self.truncate.is_none()
    }
}

fn draw<T: Copy>(injected: Option<Injected<T>>, rand: f64) -> Option<T> {
    injected.filter(|injected| rand < injected.share).map(|injected| injected.fault)
}

/// The one whole number that a header holds.
fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy() -> FaultPolicy {
        FaultPolicy {
            delay: Some(Injected { fault: Duration::from_secs(2), share: 0.5 }),
            abort: Some(Injected { fault: StatusCode::SERVICE_UNAVAILABLE, share: 0.1 }),
            truncate: Some(Injected { fault: 10, share: 1.0 }),
            ..FaultPolicy::default()
        }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn shares() {
        let none = HeaderMap::new();
        assert!(FaultPolicy::default().decide(&none, [0.0; 3]).is_none());
        let all = policy().decide(&none, [0.0; 3]);
        assert_eq!(all.delay, Some(Duration::from_secs(2)));
        assert_eq!(all.abort, Some(StatusCode::SERVICE_UNAVAILABLE));
        let few = policy().decide(&none, [0.5, 0.1, 0.999]);
        assert_eq!(few, Fault { truncate: Some(10), ..Fault::default() });
        let never = Injected { fault: 1, share: 0.0 };
        assert!(FaultPolicy { truncate: Some(never), ..FaultPolicy::default() }.decide(&none, [0.0; 3]).is_none());
    }

    #[test]
    fn only_marked_requests() {
        let rehearse = HeaderName::from_static("x-rehearse");
        let marked = FaultPolicy { only: Some((rehearse.clone(), None)), ..policy() };
        assert!(marked.decide(&HeaderMap::new(), [0.0; 3]).is_none());
        assert!(!marked.decide(&headers(&[("x-rehearse", "anything")]), [0.0; 3]).is_none());
        let named = FaultPolicy { only: Some((rehearse, Some(HeaderValue::from_static("chaos")))), ..policy() };
        assert!(named.decide(&headers(&[("x-rehearse", "anything")]), [0.0; 3]).is_none());
        assert!(!named.decide(&headers(&[("x-rehearse", "a"), ("x-rehearse", "chaos")]), [0.0; 3]).is_none());
    }

    #[test]
    fn headers_ask_only_where_they_may() {
        let asked =
            headers(&[("semel-fault-delay-ms", "150"), ("semel-fault-abort", "418"), ("semel-fault-truncate", "7")]);
        assert!(FaultPolicy::default().decide(&asked, [0.0; 3]).is_none());
        let open = FaultPolicy { by_header: true, ..FaultPolicy::default() };
        let fault = open.decide(&asked, [0.9; 3]);
        let expected =
            Fault { delay: Some(Duration::from_millis(150)), abort: Some(StatusCode::IM_A_TEAPOT), truncate: Some(7) };
        assert_eq!(fault, expected);
        for nonsense in ["", "-1", "1.5", "+3", "x", "99999999999999999999"] {
            let mut headers = HeaderMap::new();
            for name in [SEMEL_FAULT_DELAY, SEMEL_FAULT_ABORT, SEMEL_FAULT_TRUNCATE] {
                headers.insert(name, HeaderValue::from_static(nonsense));
            }
            assert!(open.decide(&headers, [0.0; 3]).is_none(), "{nonsense:?}");
        }
        for no_answer in ["0", "99", "100", "101", "1000"] {
            assert!(open.decide(&headers(&[("semel-fault-abort", no_answer)]), [0.0; 3]).is_none(), "{no_answer}");
        }
        assert_eq!(open.decide(&headers(&[("semel-fault-delay-ms", "99999999999")]), [0.0; 3]).delay, Some(DELAY_MAX));
    }

    proptest! {
        #[test]
        fn the_share_is_the_share(share in 0.0..=1.0_f64) {
            let policy = FaultPolicy { truncate: Some(Injected { fault: 0, share }), ..FaultPolicy::default() };
            let none = HeaderMap::new();
            let hit = (0..1_000).filter(|i| !policy.decide(&none, [f64::from(*i) / 1_000.0; 3]).is_none()).count();
            prop_assert!((hit as f64 / 1_000.0 - share).abs() <= 0.001);
        }
    }
}
