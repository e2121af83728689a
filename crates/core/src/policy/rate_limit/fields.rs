//! What a caller is told about its limits: `RateLimit-Policy` and `RateLimit`, structured fields (RFC 9651) of
//! draft-ietf-httpapi-ratelimit-headers-10.

use super::LimitPolicy;
use super::quota::QuotaError;
use bytes::Bytes;
use http::header::HeaderValue;
use sfv::{Integer, KeyRef, StringRef, key_ref};
use std::time::Duration;

const QUOTA: &KeyRef = key_ref("q");
const WINDOW: &KeyRef = key_ref("w");
const REMAINING: &KeyRef = key_ref("r");

/// `RateLimit-Policy`: every limit with its units (`q`) in seconds (`w`). It is the same for every answer.
pub(super) fn policy<'a>(limits: impl Iterator<Item = &'a LimitPolicy>) -> Result<HeaderValue, QuotaError> {
    let mut list = sfv::ListSerializer::new();
    for limit in limits {
        let (units, seconds) = limit.quota.units_and_seconds();
        let _ = list.bare_item(name(limit)?).parameter(QUOTA, integer(units)).parameter(WINDOW, integer(seconds));
    }
    let text = list.finish().ok_or(QuotaError::NoLimit)?;
    // What was serialized is printable ASCII.
    HeaderValue::try_from(text).map_err(|_| QuotaError::NoLimit)
}

/// What `RateLimit` of one limit begins with, whoever asks: its name, and the units that are left (`r`).
pub(super) fn standing_prefix(limit: &LimitPolicy) -> Result<Box<str>, QuotaError> {
    let mut list = sfv::ListSerializer::new();
    let _ = list.bare_item(name(limit)?).parameter(REMAINING, integer(0));
    let text = list.finish().ok_or(QuotaError::NoLimit)?;
    Ok(text.trim_end_matches('0').into())
}

/// `RateLimit` of one limit: units that are left, and the seconds until there are more (`t`), rounded up. Written by hand,
/// because every answer carries one.
pub(super) fn standing(prefix: &str, left: u32, wait: Duration) -> Option<HeaderValue> {
    let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).min(DIGITS_MAX);
    let mut text = Vec::with_capacity(prefix.len() + 28);
    text.extend_from_slice(prefix.as_bytes());
    text.extend_from_slice(itoa::Buffer::new().format(left).as_bytes());
    text.extend_from_slice(b";t=");
    text.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes());
    // The bytes are not copied again.
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
}

/// Structured fields hold fifteen digits.
const DIGITS_MAX: u64 = 999_999_999_999_999;

fn name(limit: &LimitPolicy) -> Result<&StringRef, QuotaError> {
    StringRef::from_str(&limit.name).map_err(|_| QuotaError::Name(limit.name.clone()))
}

fn integer(number: u64) -> Integer {
    Integer::try_from(number.min(DIGITS_MAX)).unwrap_or(Integer::MAX)
}
