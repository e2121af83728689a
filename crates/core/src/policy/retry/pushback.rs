//! What the upstream says about being asked again: not before then, or not at all.

use crate::headers::{GRPC_RETRY_PUSHBACK_MS, RATELIMIT, STRIPE_SHOULD_RETRY, X_SHOULD_RETRY};
use http::header::{DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use std::time::{Duration, SystemTime};

/// When the upstream wants to be asked again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pushback {
    /// It does not say.
    #[default]
    Unsaid,
    /// Not before this time is over.
    After(Duration),
    /// Not at all: somebody behind us has retried enough, or knows that it is of no use.
    Never,
}

impl Pushback {
    /// Reads an answer's headers; what cannot be read says nothing, except where gRPC says otherwise.
    ///
    /// - `Retry-After` (RFC 9110 section 10.2.3), seconds or a date. A date is taken against the answer's own Date, so
    ///   that no clocks are compared; where there is none, against `wall_now`.
    /// - `RateLimit` (draft-ietf-httpapi-ratelimit-headers): the longest `t` of the policies with nothing remaining.
    /// - `grpc-retry-pushback-ms` (gRFC A6): what is negative or cannot be read means not at all.
    /// - `x-should-retry: false` and `stripe-should-retry: false`: not at all.
    ///
    /// The longest time counts.
    #[must_use]
    pub fn read(headers: &HeaderMap, wall_now: SystemTime) -> Self {
        let told_not_to = [X_SHOULD_RETRY, STRIPE_SHOULD_RETRY].iter().any(|name| text(headers, name) == Some("false"));
        let grpc = headers.get(GRPC_RETRY_PUSHBACK_MS).map(|value| value.to_str().ok().and_then(milliseconds));
        if told_not_to || grpc == Some(None) {
            return Self::Never;
        }
        let floors = [retry_after(headers, wall_now), quota_reset(headers), grpc.flatten()];
        floors.into_iter().flatten().max().map_or(Self::Unsaid, Self::After)
    }

    /// The least to wait.
    #[must_use]
    pub const fn floor(self) -> Duration {
        match self {
            Self::After(floor) => floor,
            Self::Unsaid | Self::Never => Duration::ZERO,
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn milliseconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // Too many digits are a very long wait, not none.
    is_number.then(|| Duration::from_millis(text.parse().unwrap_or(u64::MAX)))
}

fn retry_after(headers: &HeaderMap, wall_now: SystemTime) -> Option<Duration> {
    let text = text(headers, &RETRY_AFTER)?;
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = headers.get(DATE).and_then(date).unwrap_or(wall_now);
    Some(until.duration_since(now).unwrap_or_default())
}

fn date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

/// The longest `t`, in seconds, of those policies whose `r` is zero: `"default";r=0;t=30, "daily";r=900;t=40000`.
fn quota_reset(headers: &HeaderMap) -> Option<Duration> {
    let mut longest = None;
    for value in headers.get_all(RATELIMIT) {
        let Ok(list) = sfv::Parser::new(value.as_bytes()).parse::<sfv::List>() else { continue };
        for entry in &list {
            let sfv::ListEntry::Item(item) = entry else { continue };
            let number = |name| match item.params.get(name) {
                Some(sfv::BareItem::Integer(number)) => u64::try_from(*number).ok(),
                _ => None,
            };
            if number("r") == Some(0) {
                longest = longest.max(number("t").map(Duration::from_secs));
            }
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_at(fields: &[(&'static str, &str)], now_secs: u64) -> Pushback {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Pushback::read(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(now_secs))
    }

    fn read(fields: &[(&'static str, &str)]) -> Pushback {
        read_at(fields, 0)
    }

    const fn seconds(seconds: u64) -> Pushback {
        Pushback::After(Duration::from_secs(seconds))
    }

    #[test]
    fn retry_after_in_seconds_and_as_a_date() {
        let at = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(read(&[]), Pushback::Unsaid);
        assert_eq!(read(&[("retry-after", "120")]), seconds(120));
        assert_eq!(read(&[("retry-after", "0")]), seconds(0));
        assert_eq!(read(&[("retry-after", "99999999999999999999999")]), seconds(u64::MAX));
        assert_eq!(read_at(&[("retry-after", at)], 784_111_767), seconds(10));
        assert_eq!(read_at(&[("retry-after", at)], 784_111_800), seconds(0), "a date that is past");
        let with_date = [("retry-after", at), ("date", "Sun, 06 Nov 1994 08:49:30 GMT")];
        assert_eq!(read(&with_date), seconds(7), "clocks differ");
        for nonsense in ["soon", "-1", "1.5", "", "1 2"] {
            assert_eq!(read(&[("retry-after", nonsense)]), Pushback::Unsaid, "{nonsense:?}");
        }
    }

    #[test]
    fn a_spent_quota_says_when_it_is_filled_again() {
        assert_eq!(read(&[("ratelimit", r#""default";r=0;t=30"#)]), seconds(30));
        assert_eq!(read(&[("ratelimit", r#""default";r=1;t=30"#)]), Pushback::Unsaid, "there is some left");
        assert_eq!(read(&[("ratelimit", r#""a";r=0;t=5, "b";r=0;t=9, "c";r=7;t=60"#)]), seconds(9));
        assert_eq!(read(&[("ratelimit", r#""a";r=0;t=5"#), ("ratelimit", r#""b";r=0;t=6"#)]), seconds(6));
        for nonsense in ["", "limit=100, remaining=0, reset=50", r#""a";r=0"#, r#""a";r=0;t=-1"#, r#""a";t=4"#, "\"a"] {
            assert_eq!(read(&[("ratelimit", nonsense)]), Pushback::Unsaid, "{nonsense:?}");
        }
    }

    #[test]
    fn pushback_of_grpc() {
        assert_eq!(read(&[("grpc-retry-pushback-ms", "1500")]), Pushback::After(Duration::from_millis(1_500)));
        for never in ["-1", "soon", ""] {
            assert_eq!(read(&[("grpc-retry-pushback-ms", never)]), Pushback::Never, "{never:?}");
        }
    }

    #[test]
    fn the_longest_time_counts_and_never_is_longer() {
        let mut fields =
            vec![("retry-after", "2"), ("ratelimit", r#""a";r=0;t=4"#), ("grpc-retry-pushback-ms", "3000")];
        assert_eq!(read(&fields), seconds(4));
        for (name, value) in [("x-should-retry", "false"), ("stripe-should-retry", "false")] {
            fields.push((name, value));
            assert_eq!(read(&fields), Pushback::Never);
            fields.pop();
        }
        fields.push(("x-should-retry", "true"));
        assert_eq!(read(&fields), seconds(4), "an advice to retry takes no wait away");
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "[ -~]{0,40}", date in "[ -~]{0,40}") {
            for name in ["retry-after", "ratelimit", "grpc-retry-pushback-ms"] {
                let _ = read_at(&[(name, &value), ("date", &date)], 1);
            }
        }
    }
}
