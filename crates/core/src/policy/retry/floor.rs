//! When the upstream wants to be asked again: the least to wait.

use http::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use std::time::{Duration, SystemTime};

/// What an answer's Retry-After asks for (RFC 9110 section 10.2.3): seconds, or a date. `None` where it asks for
/// nothing, or for nothing that can be read.
///
/// A date is taken against the answer's own Date header, so that no clocks are compared; where there is none, against
/// `wall_now`.
#[must_use]
pub fn retry_after(headers: &HeaderMap, wall_now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too many digits are a very long wait, not none.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = headers.get(DATE).and_then(date).unwrap_or(wall_now);
    Some(until.duration_since(now).unwrap_or_default())
}

fn date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(asked: &str, date: Option<&str>, now_secs: u64) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(asked).unwrap());
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_str(date).unwrap());
        }
        retry_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(now_secs))
    }

    #[test]
    fn seconds_and_dates() {
        let at = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(&HeaderMap::new(), SystemTime::UNIX_EPOCH), None);
        assert_eq!(read("120", None, 0), Some(Duration::from_secs(120)));
        assert_eq!(read("0", None, 0), Some(Duration::ZERO));
        assert_eq!(read("99999999999999999999999", None, 0), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(read(at, None, 784_111_767), Some(Duration::from_secs(10)));
        assert_eq!(read(at, None, 784_111_800), Some(Duration::ZERO), "a date that is past");
        assert_eq!(read(at, Some("Sun, 06 Nov 1994 08:49:30 GMT"), 0), Some(Duration::from_secs(7)), "clocks differ");
        for nonsense in ["soon", "-1", "1.5", "", "1 2"] {
            assert_eq!(read(nonsense, None, 0), None, "{nonsense:?}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "[ -~]{0,40}", date in "[ -~]{0,40}") {
            let _ = read(&value, Some(&date), 1);
        }
    }
}
