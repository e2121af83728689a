//! Until when an answer is of use: absolute inside, relative on the wire.

use crate::headers::{GRPC_TIMEOUT, SEMEL_TIMEOUT, X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, number};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use std::time::{Duration, Instant};

/// The moment after which the caller no longer waits.
///
/// Sent relative, because clocks differ, and recomputed for every attempt, because time passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// A timeout header that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header `{0}` holds no timeout: send {expected}", expected = expected(.0))]
pub struct TimeoutError(pub HeaderName);

fn expected(name: &HeaderName) -> &'static str {
    if *name == GRPC_TIMEOUT { "1 to 8 digits and a unit of H, M, S, m, u or n" } else { "whole milliseconds" }
}

impl Deadline {
    /// The deadline of a call that came at `now`: the route's `total`, or sooner if the caller asks for it.
    #[must_use]
    pub fn of_call(now: Instant, total: Duration, asked: Option<Duration>) -> Self {
        let after = asked.map_or(total, |asked| asked.min(total));
        // A total beyond what an Instant can say is no deadline in practice: a century.
        Self(now.checked_add(after).unwrap_or(now + Duration::from_secs(100 * 365 * 86_400)))
    }

    /// The deadline at a moment that somebody else computed.
    #[must_use]
    pub const fn at(moment: Instant) -> Self {
        Self(moment)
    }

    /// Time that is left; `None` once it is over.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        self.0.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Time for an attempt that starts `now`: the route's `attempt`, or what is left; `None` once the deadline is over.
    #[must_use]
    pub fn attempt_timeout(self, now: Instant, attempt: Duration) -> Option<Duration> {
        self.remaining(now).map(|left| left.min(attempt))
    }

    /// The moment itself.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }
}

/// The time a caller gives: the shortest that `Semel-Timeout`, `grpc-timeout` or `x-envoy-expected-rq-timeout-ms` say.
///
/// # Errors
/// Where one of them cannot be read: a caller with a deadline must not silently be without one.
pub fn asked_timeout(headers: &HeaderMap) -> Result<Option<Duration>, TimeoutError> {
    let mut shortest: Option<Duration> = None;
    for name in [SEMEL_TIMEOUT, GRPC_TIMEOUT, X_ENVOY_EXPECTED_RQ_TIMEOUT_MS] {
        let read = if name == GRPC_TIMEOUT { parse_grpc } else { parse_ms };
        for value in headers.get_all(&name) {
            let timeout = value.to_str().ok().and_then(read).ok_or_else(|| TimeoutError(name.clone()))?;
            shortest = Some(shortest.map_or(timeout, |known| known.min(timeout)));
        }
    }
    Ok(shortest)
}

/// Writes the time that an attempt gets into the headers of the attempt: `Semel-Timeout` always, the others where the
/// caller sent them, each rounded down so that the upstream gives up first.
pub fn write_timeout(headers: &mut HeaderMap, timeout: Duration) {
    let ms = number(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    if headers.contains_key(X_ENVOY_EXPECTED_RQ_TIMEOUT_MS) {
        headers.insert(X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, ms.clone());
    }
    headers.insert(SEMEL_TIMEOUT, ms);
    if headers.contains_key(GRPC_TIMEOUT) {
        headers.insert(GRPC_TIMEOUT, grpc_value(timeout));
    }
}

fn digits(text: &str, count_max: usize) -> Option<u64> {
    let plain = (1..=count_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn parse_ms(text: &str) -> Option<Duration> {
    // 15 digits: thirty thousand years.
    digits(text.trim(), 15).map(Duration::from_millis)
}

/// gRPC over HTTP/2: `Timeout → "grpc-timeout" TimeoutValue TimeoutUnit`, at most 8 digits.
fn parse_grpc(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (at, unit) = text.char_indices().next_back()?;
    let value = digits(&text[..at], 8)?;
    Some(match unit {
        'H' => Duration::from_secs(value * 3_600),
        'M' => Duration::from_secs(value * 60),
        'S' => Duration::from_secs(value),
        'm' => Duration::from_millis(value),
        'u' => Duration::from_micros(value),
        'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

/// The finest unit that has room for the value.
fn grpc_value(timeout: Duration) -> HeaderValue {
    const VALUE_MAX: u128 = 99_999_999;
    let seconds = u128::from(timeout.as_secs());
    let units = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (seconds, 'S'),
        (seconds / 60, 'M'),
    ];
    let fits = units.into_iter().find(|(value, _)| *value <= VALUE_MAX);
    let (value, unit) = fits.unwrap_or(((seconds / 3_600).min(VALUE_MAX), 'H'));
    HeaderValue::try_from(format!("{value}{unit}")).unwrap_or(HeaderValue::from_static("0n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::clock::some_instant;
    use proptest::prelude::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_shortest_counts() {
        let asked = |fields: &[(&'static str, &str)]| asked_timeout(&headers(fields)).unwrap();
        assert_eq!(asked(&[]), None);
        assert_eq!(asked(&[("semel-timeout", "1500")]), Some(Duration::from_millis(1_500)));
        assert_eq!(asked(&[("grpc-timeout", "1S"), ("semel-timeout", "1500")]), Some(Duration::from_secs(1)));
        assert_eq!(asked(&[("x-envoy-expected-rq-timeout-ms", "0"), ("grpc-timeout", "1H")]), Some(Duration::ZERO));
        assert_eq!(asked(&[("semel-timeout", "9"), ("semel-timeout", "7")]), Some(Duration::from_millis(7)));
    }

    #[test]
    fn grpc_units() {
        let units = [("3H", 10_800_000_000_000), ("2M", 120_000_000_000), ("99999999S", 99_999_999_000_000_000)];
        for (text, nanos) in units.into_iter().chain([("5m", 5_000_000), ("7u", 7_000), ("9n", 9)]) {
            assert_eq!(parse_grpc(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for (name, value) in [
            ("semel-timeout", "1.5"),
            ("semel-timeout", "-1"),
            ("semel-timeout", "1s"),
            ("semel-timeout", ""),
            ("semel-timeout", "9999999999999999"),
            ("grpc-timeout", "1"),
            ("grpc-timeout", "S"),
            ("grpc-timeout", "123456789S"),
            ("grpc-timeout", "+1S"),
            ("x-envoy-expected-rq-timeout-ms", "soon"),
        ] {
            let error = asked_timeout(&headers(&[(name, value)])).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn every_attempt_gets_less() {
        let now = some_instant();
        let deadline = Deadline::of_call(now, Duration::from_secs(10), Some(Duration::from_secs(4)));
        let attempt = Duration::from_secs(3);
        assert_eq!(deadline.attempt_timeout(now, attempt), Some(attempt));
        assert_eq!(deadline.attempt_timeout(now + attempt, attempt), Some(Duration::from_secs(1)));
        assert_eq!(deadline.attempt_timeout(now + Duration::from_secs(4), attempt), None);
        assert_eq!(deadline.remaining(now + Duration::from_secs(5)), None);
        assert_eq!(Deadline::of_call(now, attempt, Some(Duration::ZERO)).remaining(now), None);
        assert!(Deadline::of_call(now, Duration::MAX, None).remaining(now).is_some());
    }

    #[test]
    fn written_where_the_caller_reads_it() {
        let mut attempt = headers(&[("grpc-timeout", "10S"), ("x-envoy-expected-rq-timeout-ms", "10000")]);
        write_timeout(&mut attempt, Duration::from_micros(2_999_700));
        assert_eq!(attempt["semel-timeout"], "2999");
        assert_eq!(attempt["x-envoy-expected-rq-timeout-ms"], "2999");
        assert_eq!(attempt["grpc-timeout"], "2999700u");
        let mut plain = HeaderMap::new();
        write_timeout(&mut plain, Duration::from_secs(1));
        assert_eq!(plain.len(), 1);
    }

    proptest! {
        #[test]
        fn grpc_round_trips_downwards(seconds in 0_u64..350_000_000_000, nanos in 0_u32..1_000_000_000) {
            let timeout = Duration::new(seconds, nanos);
            let read = parse_grpc(grpc_value(timeout).to_str().unwrap()).unwrap();
            prop_assert!(read <= timeout);
            // Eight digits lose less than the last of them; hours are the coarsest unit there is.
            let loss = (timeout - read).as_secs_f64();
            prop_assert!(loss <= timeout.as_secs_f64() / 1_000_000.0 || loss < 3_600.0 && seconds > 99_999_999);
        }

        #[test]
        fn no_value_panics(value in "[ -~]{0,20}") {
            for name in ["semel-timeout", "grpc-timeout", "x-envoy-expected-rq-timeout-ms"] {
                let _ = asked_timeout(&headers(&[(name, &value)]));
            }
        }
    }
}
