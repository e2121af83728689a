//! Who retries: only the outermost hop, so that attempts do not multiply along a chain.
//!
//! Three layers that each try three times make 27 attempts of one call ("Addressing Cascading Failures", Site Reliability
//! Engineering, 2016). What callers say can only turn retries off here, never on, so it needs no trust.

use crate::headers::{GRPC_PREVIOUS_RPC_ATTEMPTS, SEMEL_ATTEMPT, X_ENVOY_ATTEMPT_COUNT};
use http::header::{HeaderMap, HeaderValue};
use std::fmt;
use std::str::FromStr;

/// `Semel-Attempt: n/max`: this is attempt `n` of at most `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptMark {
    n: u32,
    max: u32,
}

/// A text that is no [`AttemptMark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an attempt is written `n/max`, from 1/1 on, as in `2/3`")]
pub struct AttemptMarkError;

impl AttemptMark {
    /// Attempt `n` (from 1) of at most `max`. A transparent retry repeats its attempt's number.
    #[must_use]
    pub fn new(n: u32, max: u32) -> Self {
        let n = n.max(1);
        Self { n, max: max.max(n) }
    }

    /// Which attempt, from 1.
    #[must_use]
    pub const fn n(self) -> u32 {
        self.n
    }

    /// Of how many at most.
    #[must_use]
    pub const fn max(self) -> u32 {
        self.max
    }

    /// The header's value.
    #[must_use]
    pub fn to_header_value(self) -> HeaderValue {
        // The common ones without a format.
        match (self.n, self.max) {
            (1, 1) => HeaderValue::from_static("1/1"),
            (1, 3) => HeaderValue::from_static("1/3"),
            (2, 3) => HeaderValue::from_static("2/3"),
            (3, 3) => HeaderValue::from_static("3/3"),
            _ => HeaderValue::try_from(self.to_string()).unwrap_or(HeaderValue::from_static("1/1")),
        }
    }
}

/// Attempts that this hop may make for a request, given that its route says `attempts_max`: 1 where somebody before us
/// retries, from the first attempt on.
#[must_use]
pub fn attempts_here(headers: &HeaderMap, attempts_max: u32) -> u32 {
    if is_owned_before(headers) { 1 } else { attempts_max.max(1) }
}

/// Whether a hop before this one retries, or is already doing so. What cannot be read counts as a yes: it comes from
/// somebody who counts attempts.
///
/// Such a hop's mark goes on as it came: one of this hop's own, `1/1`, would tell the next that nobody retries.
#[must_use]
pub fn is_owned_before(headers: &HeaderMap) -> bool {
    let any =
        |name, owned: fn(&str) -> bool| headers.get_all(name).iter().any(|value| value.to_str().map_or(true, owned));
    any(SEMEL_ATTEMPT, |text| text.parse().map_or(true, |mark: AttemptMark| mark.max > 1))
        // Envoy counts from 1: whether it will retry its first attempt it does not say.
        || any(X_ENVOY_ATTEMPT_COUNT, |text| text.trim().parse().map_or(true, |count: u32| count > 1))
        // gRPC counts the attempts before this one and sends the header only if there were any (gRFC A6).
        || any(GRPC_PREVIOUS_RPC_ATTEMPTS, |text| text.trim().parse().map_or(true, |count: u32| count > 0))
}

impl FromStr for AttemptMark {
    type Err = AttemptMarkError;

    fn from_str(text: &str) -> Result<Self, AttemptMarkError> {
        let number = |text: &str| -> Option<u32> {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if plain { text.parse().ok() } else { None }
        };
        let (n, max) = text.trim().split_once('/').ok_or(AttemptMarkError)?;
        let (n, max) = number(n).zip(number(max)).ok_or(AttemptMarkError)?;
        if n == 0 || n > max { Err(AttemptMarkError) } else { Ok(Self { n, max }) }
    }
}

impl fmt::Display for AttemptMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.n, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attempts(fields: &[(&'static str, &'static str)]) -> u32 {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        attempts_here(&headers, 3)
    }

    #[test]
    fn only_the_outermost_hop_retries() {
        assert_eq!(attempts(&[]), 3);
        assert_eq!(attempts(&[("semel-attempt", "1/1")]), 3, "nobody before us retries");
        assert_eq!(attempts(&[("semel-attempt", "1/3")]), 1, "from the first attempt on");
        assert_eq!(attempts(&[("semel-attempt", "2/3")]), 1);
        assert_eq!(attempts(&[("x-envoy-attempt-count", "1")]), 3);
        assert_eq!(attempts(&[("x-envoy-attempt-count", "2")]), 1);
        assert_eq!(attempts(&[("grpc-previous-rpc-attempts", "1")]), 1);
        assert_eq!(attempts(&[("grpc-previous-rpc-attempts", "0")]), 3);
        assert_eq!(attempts(&[("semel-attempt", "1/1"), ("semel-attempt", "1/2")]), 1);
    }

    #[test]
    fn nonsense_turns_retries_off() {
        for nonsense in ["", "3", "0/3", "4/3", "a/b", "1/", "-1/3", "1/99999999999"] {
            assert_eq!(attempts(&[("semel-attempt", nonsense)]), 1, "{nonsense:?}");
        }
    }

    proptest! {
        #[test]
        fn marks_round_trip(n: u32, max: u32) {
            let mark = AttemptMark::new(n, max);
            prop_assert_eq!(mark.to_header_value().to_str().unwrap().parse(), Ok(mark));
        }

        #[test]
        fn no_caller_turns_retries_on(value in "[ -~]{0,12}", own in 0_u32..9) {
            let mut headers = HeaderMap::new();
            for name in ["semel-attempt", "x-envoy-attempt-count", "grpc-previous-rpc-attempts"] {
                headers.insert(name, HeaderValue::from_str(&value).unwrap());
            }
            prop_assert!(attempts_here(&headers, own) <= own.max(1));
        }
    }
}
