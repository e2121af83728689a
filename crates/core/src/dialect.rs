//! How refusals are worded on the wire: a table per dialect, so that no status is an `if` somewhere else.

use crate::problem::ProblemKind;
use http::StatusCode;
use std::fmt;
use std::str::FromStr;

/// The shape of a refusal's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// RFC 9457 problem details.
    Problem,
    /// `{"error": {"type", "code", "message"}}`, as Stripe's SDKs read it.
    Stripe,
}

impl Envelope {
    /// The body's media type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Problem => "application/problem+json",
            Self::Stripe => "application/json",
        }
    }
}

/// A dialect: an envelope and what it says otherwise than the kinds themselves.
#[derive(Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The name in the config.
    pub name: &'static str,
    /// The shape of bodies.
    pub envelope: Envelope,
    /// The type of an error that no row names.
    error_type: &'static str,
    rows: &'static [Override],
}

/// What a dialect says about one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialectRow {
    /// The status.
    pub status: StatusCode,
    /// The error's type, in an envelope that has one.
    pub error_type: &'static str,
    /// The code, where it is not the kind's own.
    pub code: Option<&'static str>,
}

#[derive(Debug, PartialEq, Eq)]
struct Override {
    kind: ProblemKind,
    row: DialectRow,
}

/// The config names no dialect that there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no dialect: use `ietf` or `stripe`")]
pub struct UnknownDialect(pub String);

const fn row(kind: ProblemKind, status: StatusCode, error_type: &'static str, code: Option<&'static str>) -> Override {
    Override { kind, row: DialectRow { status, error_type, code } }
}

impl Dialect {
    /// The IETF Idempotency-Key draft (draft-ietf-httpapi-idempotency-key-header-07): 400 missing, 422 reused, 409 in flight.
    pub const IETF: Self =
        Self { name: "ietf", envelope: Envelope::Problem, error_type: "invalid_request_error", rows: &[] };

    /// Stripe's: 400 `idempotency_error` for a reused key, 409 `idempotency_key_in_use` for a concurrent one
    /// (<https://docs.stripe.com/error-codes>, <https://docs.stripe.com/error-low-level#idempotency>).
    pub const STRIPE: Self = Self {
        name: "stripe",
        envelope: Envelope::Stripe,
        error_type: "invalid_request_error",
        rows: &[
            row(ProblemKind::KeyReused, StatusCode::BAD_REQUEST, "idempotency_error", None),
            row(ProblemKind::InFlight, StatusCode::CONFLICT, "idempotency_error", Some("idempotency_key_in_use")),
            row(ProblemKind::Released, StatusCode::CONFLICT, "idempotency_error", Some("idempotency_key_in_use")),
            row(ProblemKind::TooManyWaiters, StatusCode::CONFLICT, "idempotency_error", Some("idempotency_key_in_use")),
            row(ProblemKind::Consumed, StatusCode::CONFLICT, "idempotency_error", None),
            row(ProblemKind::OutcomeUnknown, StatusCode::GATEWAY_TIMEOUT, "api_error", None),
            row(ProblemKind::OutcomeStillUnknown, StatusCode::CONFLICT, "idempotency_error", None),
            row(ProblemKind::KeyExpired, StatusCode::BAD_REQUEST, "idempotency_error", None),
            row(ProblemKind::PrincipalUnverified, StatusCode::CONFLICT, "idempotency_error", None),
            row(ProblemKind::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT, "api_error", None),
            row(ProblemKind::LedgerUnavailable, StatusCode::SERVICE_UNAVAILABLE, "api_error", None),
            row(ProblemKind::DiskReserve, StatusCode::SERVICE_UNAVAILABLE, "api_error", None),
            row(ProblemKind::ReducedCapacity, StatusCode::SERVICE_UNAVAILABLE, "api_error", None),
            row(ProblemKind::UpstreamUnavailable, StatusCode::SERVICE_UNAVAILABLE, "api_error", None),
            row(ProblemKind::UpstreamUnreachable, StatusCode::BAD_GATEWAY, "api_error", None),
            row(ProblemKind::UpstreamConnectTimeout, StatusCode::GATEWAY_TIMEOUT, "api_error", None),
            row(ProblemKind::UpstreamFailed, StatusCode::BAD_GATEWAY, "api_error", None),
            row(ProblemKind::QuotaExceeded, StatusCode::TOO_MANY_REQUESTS, "invalid_request_error", Some("rate_limit")),
        ],
    };

    /// Every dialect.
    pub const ALL: [&'static Self; 2] = [&Self::IETF, &Self::STRIPE];

    /// What this dialect says about a kind.
    #[must_use]
    pub fn row(&self, kind: ProblemKind) -> DialectRow {
        let own = self.rows.iter().find(|own| own.kind == kind).map(|own| own.row);
        own.unwrap_or(DialectRow { status: kind.status(), error_type: self.error_type, code: None })
    }
}

impl FromStr for &'static Dialect {
    type Err = UnknownDialect;

    fn from_str(name: &str) -> Result<Self, UnknownDialect> {
        let found = Dialect::ALL.into_iter().find(|dialect| dialect.name == name);
        found.ok_or_else(|| UnknownDialect(name.to_owned()))
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for dialect in Dialect::ALL {
            assert_eq!(dialect.to_string().parse(), Ok(dialect));
        }
        assert_eq!("acp".parse::<&Dialect>().unwrap_err().to_string(), "`acp` is no dialect: use `ietf` or `stripe`");
    }

    #[test]
    fn no_kind_has_two_rows() {
        for dialect in Dialect::ALL {
            for kind in ProblemKind::ALL {
                assert!(dialect.rows.iter().filter(|own| own.kind == kind).count() <= 1, "{kind:?}");
            }
        }
    }
}
