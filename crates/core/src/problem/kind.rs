//! The kinds of refusal: one row each.

use super::table::{ROWS, Row};
use crate::evidence::EffectMark;
use http::StatusCode;

/// Why the gateway answers itself. A stable code names each; the status is a [dialect](crate::dialect)'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// The route needs a key and the request has none.
    KeyMissing,
    /// There is something where the key should be, but it is no key.
    KeyMalformed,
    /// The request's body is larger than the route takes.
    BodyTooLarge,
    /// The key was used for another request.
    KeyReused,
    /// The first request with this key has not ended yet.
    InFlight,
    /// The request with this key that this one waited for was not executed.
    Released,
    /// As many callers as allowed already wait for the first request with this key.
    TooManyWaiters,
    /// Executed; only a tombstone is left.
    Consumed,
    /// This very call was sent and nobody knows what came of it.
    OutcomeUnknown,
    /// An earlier call with this key was sent and nobody knows what came of it.
    OutcomeStillUnknown,
    /// The key's window is over.
    KeyExpired,
    /// The caller's deadline was over before anything was sent.
    DeadlineExceeded,
    /// The ledger cannot be reached or does not write.
    LedgerUnavailable,
    /// The ledger keeps its last disk space for settlements.
    DiskReserve,
    /// More work than the gateway takes at a time.
    ReducedCapacity,
    /// The caller asked more often than it may.
    QuotaExceeded,
    /// The route scopes keys by caller and the request does not say who calls.
    PrincipalRequired,
    /// The effect belongs to this caller by name, but the credential is not the one that started it.
    PrincipalUnverified,
    /// No route takes this request.
    RouteNotFound,
    /// Our own limit, breaker or pool kept the request from the upstream; nothing was executed.
    UpstreamUnavailable,
    /// No connection to the upstream carried a byte of the request; nothing was executed.
    UpstreamUnreachable,
    /// No connection to the upstream came about in time; nothing was executed.
    UpstreamConnectTimeout,
    /// The upstream's answer to a request without a key is broken or did not come.
    UpstreamFailed,
    /// The request's framing or syntax is ambiguous or wrong.
    RequestMalformed,
    /// The request's head is larger than the gateway takes.
    HeadersTooLarge,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The request's target is longer than the gateway takes.
    TargetTooLong,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    VersionUnsupported,
    /// There is a route for this path, but not for this method.
    MethodNotAllowed,
    /// An expectation other than `100-continue`.
    ExpectationFailed,
    /// The request wants to leave HTTP.
    UpgradeUnsupported,
    /// The upstream's answer to a request without a key did not come in time.
    UpstreamTimeout,
}

impl ProblemKind {
    /// Every kind.
    pub const ALL: [Self; ROWS.len()] = {
        let mut all = [Self::KeyMissing; ROWS.len()];
        let mut at = 0;
        while at < all.len() {
            all[at] = ROWS[at].kind;
            at += 1;
        }
        all
    };

    /// The stable code, such as `key-reused`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        self.row().code
    }

    /// The stable type URI (RFC 9457 section 3.1.1): a name, not an address.
    #[must_use]
    pub fn type_uri(self) -> String {
        format!("urn:semel:problem:{}", self.code())
    }

    /// The status where a dialect says nothing else.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.row().status
    }

    /// One sentence, the same for every occurrence.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().title
    }

    /// Whether repeating is safe, in words.
    #[must_use]
    pub const fn repeat(self) -> &'static str {
        self.row().repeat
    }

    /// What this kind alone says about the effect.
    #[must_use]
    pub const fn effect(self) -> EffectMark {
        self.row().effect
    }

    /// Whether an SDK should repeat by itself. False for what stays as it is: SDKs otherwise hammer a terminal 409 or 5xx.
    #[must_use]
    pub const fn should_retry(self) -> bool {
        self.row().retry_after_seconds.is_some()
    }

    /// When to repeat, in seconds, where nobody knows better.
    #[must_use]
    pub const fn retry_after_seconds(self) -> Option<u32> {
        self.row().retry_after_seconds
    }

    const fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_contract_s_table() {
        let expected = [
            (ProblemKind::KeyMissing, 400, "key-missing"),
            (ProblemKind::KeyMalformed, 400, "key-malformed"),
            (ProblemKind::BodyTooLarge, 413, "body-too-large"),
            (ProblemKind::KeyReused, 422, "key-reused"),
            (ProblemKind::InFlight, 409, "in-flight"),
            (ProblemKind::Consumed, 409, "consumed"),
            (ProblemKind::OutcomeUnknown, 504, "outcome-unknown"),
            (ProblemKind::OutcomeStillUnknown, 409, "outcome-unknown"),
            (ProblemKind::KeyExpired, 409, "key-expired"),
            (ProblemKind::DeadlineExceeded, 504, "deadline-exceeded"),
            (ProblemKind::LedgerUnavailable, 503, "ledger-unavailable"),
            (ProblemKind::PrincipalRequired, 401, "principal-required"),
            (ProblemKind::PrincipalUnverified, 409, "principal-unverified"),
        ];
        for (kind, status, code) in expected {
            assert_eq!((kind.status().as_u16(), kind.code()), (status, code));
        }
    }

    #[test]
    fn rows_stand_where_their_kinds_say() {
        for (at, kind) in ProblemKind::ALL.into_iter().enumerate() {
            assert_eq!((at, ROWS[at].kind), (kind as usize, kind));
        }
    }

    #[test]
    fn codes_name_one_thing() {
        let mut seen = HashMap::new();
        for kind in ProblemKind::ALL {
            let count = seen.entry(kind.code()).or_insert(0);
            *count += 1;
        }
        seen.retain(|_, count| *count > 1);
        assert_eq!(seen, HashMap::from([("outcome-unknown", 2)]));
    }

    #[test]
    fn sdks_repeat_only_what_heals_by_itself() {
        let retried: Vec<_> =
            ProblemKind::ALL.into_iter().filter(|kind| kind.should_retry()).map(ProblemKind::code).collect();
        assert_eq!(
            retried,
            [
                "in-flight",
                "released",
                "too-many-waiters",
                "ledger-unavailable",
                "disk-reserve",
                "reduced-capacity",
                "quota-exceeded"
            ]
        );
    }
}
