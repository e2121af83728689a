//! The kinds of refusal: one row each.

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

/// What is fixed about a kind.
struct Row {
    kind: ProblemKind,
    code: &'static str,
    status: StatusCode,
    title: &'static str,
    repeat: &'static str,
    effect: EffectMark,
    /// Seconds; a kind that should be retried says when.
    retry_after_seconds: Option<u32>,
}

const AFTER_MENDING: &str = "Nothing was executed: mend the request, then send it.";
const SAME_KEY_SAFE: &str = "Nothing was executed: repeating with the same key is safe.";
const SAME_KEY_WAITS: &str = "Repeating with the same key is safe and never executes it twice; a new key would.";

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

/// One row per kind, in the order of the enum.
static ROWS: [Row; ProblemKind::UpstreamTimeout as usize + 1] = [
    Row {
        kind: ProblemKind::KeyMissing,
        code: "key-missing",
        status: StatusCode::BAD_REQUEST,
        title: "This operation needs an idempotency key",
        repeat: "Nothing was executed: send the request with a key that is unique to this effect.",
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::KeyMalformed,
        code: "key-malformed",
        status: StatusCode::BAD_REQUEST,
        title: "The idempotency key is malformed",
        repeat: "Nothing was executed: send the request with 1 to 255 visible ASCII characters as its key.",
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::BodyTooLarge,
        code: "body-too-large",
        status: StatusCode::PAYLOAD_TOO_LARGE,
        title: "The request body is larger than this operation takes",
        repeat: "Nothing was executed: repeating the same request gives this answer again.",
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::KeyReused,
        code: "key-reused",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        title: "The idempotency key was used for another request",
        repeat: "This request was not executed: send it with a new key if it is another effect.",
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::InFlight,
        code: "in-flight",
        status: StatusCode::CONFLICT,
        title: "The first request with this key has not ended yet",
        repeat: SAME_KEY_WAITS,
        effect: EffectMark::Open,
        retry_after_seconds: Some(1),
    },
    Row {
        kind: ProblemKind::Released,
        code: "released",
        status: StatusCode::CONFLICT,
        title: "The request with this key that this one waited for was not executed",
        repeat: SAME_KEY_SAFE,
        effect: EffectMark::None,
        retry_after_seconds: Some(1),
    },
    Row {
        kind: ProblemKind::TooManyWaiters,
        code: "too-many-waiters",
        status: StatusCode::CONFLICT,
        title: "Too many callers already wait for the first request with this key",
        repeat: SAME_KEY_WAITS,
        effect: EffectMark::Open,
        retry_after_seconds: Some(5),
    },
    Row {
        kind: ProblemKind::Consumed,
        code: "consumed",
        status: StatusCode::CONFLICT,
        title: "The effect was executed and its answer is not kept",
        repeat: "Repeating this request with the same key is safe and gives this answer again; a new key would execute it \
                 a second time.",
        effect: EffectMark::Committed,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::OutcomeUnknown,
        code: "outcome-unknown",
        status: StatusCode::GATEWAY_TIMEOUT,
        title: "The request was sent and nobody knows whether it was executed",
        repeat: "Repeating with the same key never executes it twice and tells the outcome once it is known; a new key \
                 might execute it a second time.",
        effect: EffectMark::Unknown,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::OutcomeStillUnknown,
        code: "outcome-unknown",
        status: StatusCode::CONFLICT,
        title: "An earlier request with this key was sent and nobody knows whether it was executed",
        repeat: "Repeating with the same key never executes it twice and tells the outcome once it is known; a new key \
                 might execute it a second time.",
        effect: EffectMark::Unknown,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::KeyExpired,
        code: "key-expired",
        status: StatusCode::CONFLICT,
        title: "The idempotency key has expired: its effect was executed earlier",
        repeat: "This request was not executed again; only a new key would execute it a second time.",
        effect: EffectMark::Committed,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::DeadlineExceeded,
        code: "deadline-exceeded",
        status: StatusCode::GATEWAY_TIMEOUT,
        title: "The deadline was over before the request was sent",
        repeat: SAME_KEY_SAFE,
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::LedgerUnavailable,
        code: "ledger-unavailable",
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: "The gateway cannot record the effect now",
        repeat: SAME_KEY_SAFE,
        effect: EffectMark::None,
        retry_after_seconds: Some(5),
    },
    Row {
        kind: ProblemKind::DiskReserve,
        code: "disk-reserve",
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: "The gateway's disk is nearly full and takes no new effects",
        repeat: SAME_KEY_SAFE,
        effect: EffectMark::None,
        retry_after_seconds: Some(30),
    },
    Row {
        kind: ProblemKind::ReducedCapacity,
        code: "reduced-capacity",
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: "The gateway takes fewer requests now",
        repeat: SAME_KEY_SAFE,
        effect: EffectMark::None,
        retry_after_seconds: Some(5),
    },
    Row {
        kind: ProblemKind::QuotaExceeded,
        code: "quota-exceeded",
        status: StatusCode::TOO_MANY_REQUESTS,
        title: "The caller has used up its rate",
        repeat: SAME_KEY_SAFE,
        effect: EffectMark::None,
        retry_after_seconds: Some(1),
    },
    Row {
        kind: ProblemKind::PrincipalRequired,
        code: "principal-required",
        status: StatusCode::UNAUTHORIZED,
        title: "This operation must know who calls",
        repeat: "Nothing was executed: send the request with a credential.",
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::PrincipalUnverified,
        code: "principal-unverified",
        status: StatusCode::CONFLICT,
        title: "The effect was started with another credential of this caller",
        repeat: "This request was not executed: repeat it with the credential that started the effect to see its answer.",
        effect: EffectMark::Unknown,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::RouteNotFound,
        code: "route-not-found",
        status: StatusCode::NOT_FOUND,
        title: "The gateway has no route for this request",
        repeat: "Nothing was executed: repeating the same request gives this answer again.",
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::UpstreamUnavailable,
        code: "upstream-unavailable",
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: "The upstream takes no requests now",
        repeat: SAME_KEY_SAFE,
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::UpstreamUnreachable,
        code: "upstream-unreachable",
        status: StatusCode::BAD_GATEWAY,
        title: "The upstream could not be reached",
        repeat: SAME_KEY_SAFE,
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::UpstreamConnectTimeout,
        code: "upstream-connect-timeout",
        status: StatusCode::GATEWAY_TIMEOUT,
        title: "The upstream could not be reached in time",
        repeat: SAME_KEY_SAFE,
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::UpstreamFailed,
        code: "upstream-failed",
        status: StatusCode::BAD_GATEWAY,
        title: "The upstream gave no whole answer",
        repeat: "The request may have been executed: repeating is safe only if the operation is.",
        effect: EffectMark::Unknown,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::RequestMalformed,
        code: "request-malformed",
        status: StatusCode::BAD_REQUEST,
        title: "The request is malformed or ambiguous",
        repeat: AFTER_MENDING,
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::HeadersTooLarge,
        code: "headers-too-large",
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        title: "The request head is larger than the gateway takes",
        repeat: "Nothing was executed: repeating the same request gives this answer again.",
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::RequestTimeout,
        code: "request-timeout",
        status: StatusCode::REQUEST_TIMEOUT,
        title: "The request did not arrive in time",
        repeat: SAME_KEY_SAFE,
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::TargetTooLong,
        code: "target-too-long",
        status: StatusCode::URI_TOO_LONG,
        title: "The request target is longer than the gateway takes",
        repeat: "Nothing was executed: repeating the same request gives this answer again.",
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::VersionUnsupported,
        code: "version-unsupported",
        status: StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        title: "The gateway speaks HTTP/1.0 and HTTP/1.1 here",
        repeat: "Nothing was executed: repeating the same request gives this answer again.",
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::MethodNotAllowed,
        code: "method-not-allowed",
        status: StatusCode::METHOD_NOT_ALLOWED,
        title: "The gateway has a route for this path, but not for this method",
        repeat: "Nothing was executed: repeating the same request gives this answer again.",
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::ExpectationFailed,
        code: "expectation-failed",
        status: StatusCode::EXPECTATION_FAILED,
        title: "The only expectation that can be met is 100-continue",
        repeat: AFTER_MENDING,
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::UpgradeUnsupported,
        code: "upgrade-unsupported",
        status: StatusCode::NOT_IMPLEMENTED,
        title: "Protocol upgrades such as WebSocket are not supported",
        repeat: "Nothing was executed: repeating the same request gives this answer again.",
        effect: EffectMark::None,
        retry_after_seconds: None,
    },
    Row {
        kind: ProblemKind::UpstreamTimeout,
        code: "upstream-timeout",
        status: StatusCode::GATEWAY_TIMEOUT,
        title: "The upstream did not answer in time",
        repeat: "The request may have been executed: repeating is safe only if the operation is.",
        effect: EffectMark::Unknown,
        retry_after_seconds: None,
    },
];

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
