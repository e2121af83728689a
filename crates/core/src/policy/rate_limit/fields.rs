//! What a caller is told about its limits: `RateLimit-Policy` and `RateLimit`, structured fields (RFC 9651) of
//! draft-ietf-httpapi-ratelimit-headers-10.

use super::LimitPolicy;
use super::quota::QuotaError;
use http::header::HeaderValue;
use sfv::{Integer, KeyRef, StringRef, key_ref};
use std::time::Duration;

const QUOTA: &KeyRef = key_ref("q");
const WINDOW: &KeyRef = key_ref("w");
const REMAINING: &KeyRef = key_ref("r");
const MORE_IN: &KeyRef = key_ref("t");

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

/// `RateLimit` of one limit: units that are left (`r`), and the seconds until there are more (`t`), rounded up.
pub(super) fn standing(limit: &LimitPolicy, left: u32, wait: Duration) -> Option<HeaderValue> {
    let mut list = sfv::ListSerializer::new();
    let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
    let _ = list
        .bare_item(name(limit).ok()?)
        .parameter(REMAINING, integer(left.into()))
        .parameter(MORE_IN, integer(seconds));
    HeaderValue::try_from(list.finish()?).ok()
}

fn name(limit: &LimitPolicy) -> Result<&StringRef, QuotaError> {
    StringRef::from_str(&limit.name).map_err(|_| QuotaError::Name(limit.name.clone()))
}

/// Structured fields hold fifteen digits.
fn integer(number: u64) -> Integer {
    Integer::try_from(number).unwrap_or(Integer::MAX)
}
