//! What a client of the admin API is told when something is not done: RFC 9457 problem details with stable codes.

use axum::{
    body::Body,
    http::{
        HeaderValue, Response, StatusCode,
        header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::IntoResponse,
};
use semel_core::code::Code;
use serde::Serialize;

use crate::view::EffectView;

/// One refusal.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    detail: String,
    pointer: Option<String>,
    code: Option<Code>,
    effect: Option<Box<EffectView>>,
}

/// Why something was not done. The code of each is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    HostNotAllowed,
    OriginNotAllowed,
    TokenRequired,
    TokenWrong,
    SettlementTokenRequired,
    SettlementTokenWrong,
    ContentTypeWrong,
    BodyTooLarge,
    BodyUnreadable,
    JsonMalformed,
    FieldInvalid,
    QueryInvalid,
    EffectIdMalformed,
    EffectNotFound,
    NotFound,
    MethodNotAllowed,
    FenceStale,
    StateConflict,
    SettledOtherwise,
    TooManyRequests,
    TimedOut,
    LedgerUnavailable,
    LedgerUncertain,
    LedgerStopped,
    RecordDamaged,
    ReloadRefused,
}

/// What is fixed about a kind: its code, status, title and what to do.
pub(crate) type Row = (&'static str, StatusCode, &'static str, &'static str);

impl Kind {
    /// Every kind.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 26] = [
        Self::HostNotAllowed,
        Self::OriginNotAllowed,
        Self::TokenRequired,
        Self::TokenWrong,
        Self::SettlementTokenRequired,
        Self::SettlementTokenWrong,
        Self::ContentTypeWrong,
        Self::BodyTooLarge,
        Self::BodyUnreadable,
        Self::JsonMalformed,
        Self::FieldInvalid,
        Self::QueryInvalid,
        Self::EffectIdMalformed,
        Self::EffectNotFound,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::FenceStale,
        Self::StateConflict,
        Self::SettledOtherwise,
        Self::TooManyRequests,
        Self::TimedOut,
        Self::LedgerUnavailable,
        Self::LedgerUncertain,
        Self::LedgerStopped,
        Self::RecordDamaged,
        Self::ReloadRefused,
    ];

    pub(crate) const fn row(self) -> Row {
        match self {
            Self::HostNotAllowed
            | Self::OriginNotAllowed
            | Self::TokenRequired
            | Self::TokenWrong
            | Self::SettlementTokenRequired
            | Self::SettlementTokenWrong => self.access_row(),
            Self::ContentTypeWrong
            | Self::BodyTooLarge
            | Self::BodyUnreadable
            | Self::JsonMalformed
            | Self::FieldInvalid
            | Self::QueryInvalid
            | Self::EffectIdMalformed
            | Self::NotFound
            | Self::MethodNotAllowed => self.request_row(),
            _ => self.effect_row(),
        }
    }

    const fn access_row(self) -> Row {
        match self {
            Self::HostNotAllowed => (
                "host-not-allowed",
                StatusCode::FORBIDDEN,
                "The Host of the request is not one of this API",
                "Use an IP address or localhost, or add the name to `admin.allowed_hosts`.",
            ),
            Self::OriginNotAllowed => (
                "origin-not-allowed",
                StatusCode::FORBIDDEN,
                "A page of another site sent the request",
                "If that page is yours, add its origin to `admin.allowed_origins`.",
            ),
            Self::TokenRequired => (
                "token-required",
                StatusCode::UNAUTHORIZED,
                "This needs the admin token",
                "Send `Authorization: Bearer` with the content of the file that `admin.token_file` names.",
            ),
            Self::SettlementTokenRequired => (
                "settlement-token-required",
                StatusCode::UNAUTHORIZED,
                "This needs the effect's settlement token",
                "Send back the Semel-Settlement header that came with the request, exactly once.",
            ),
            Self::SettlementTokenWrong => (
                "settlement-token-wrong",
                StatusCode::UNAUTHORIZED,
                "The settlement token is not one of this effect",
                "Send back the Semel-Settlement header that came together with this Semel-Effect-Id.",
            ),
            _ => (
                "token-wrong",
                StatusCode::UNAUTHORIZED,
                "The admin token is not the one of this gateway",
                "If the token file was replaced, reload the gateway (SIGHUP), then read the file again.",
            ),
        }
    }

    const fn request_row(self) -> Row {
        match self {
            Self::ContentTypeWrong => (
                "content-type-wrong",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The request's content is not JSON",
                "Send `Content-Type: application/json`.",
            ),
            Self::BodyTooLarge => (
                "body-too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The request body is larger than this API takes",
                "Send `\"consumed\": true` instead of a body that large.",
            ),
            Self::BodyUnreadable => (
                "body-unreadable",
                StatusCode::BAD_REQUEST,
                "The request body broke off",
                "Nothing was changed: send the request again.",
            ),
            Self::JsonMalformed => (
                "json-malformed",
                StatusCode::BAD_REQUEST,
                "The request body is not valid JSON",
                "Nothing was changed: mend the request.",
            ),
            Self::FieldInvalid => (
                "field-invalid",
                StatusCode::UNPROCESSABLE_ENTITY,
                "A field of the request is missing or wrong",
                "Nothing was changed: mend the request; /openapi.json describes every field.",
            ),
            Self::QueryInvalid => (
                "query-invalid",
                StatusCode::BAD_REQUEST,
                "A query parameter is unknown or wrong",
                "See /openapi.json for the parameters.",
            ),
            Self::EffectIdMalformed => (
                "effect-id-malformed",
                StatusCode::BAD_REQUEST,
                "The path has no effect id",
                "Use the id from the Semel-Effect-Id header.",
            ),
            Self::NotFound => (
                "not-found",
                StatusCode::NOT_FOUND,
                "There is nothing under this path",
                "See /openapi.json for the paths.",
            ),
            _ => (
                "method-not-allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "This path has no such method",
                "The Allow header lists its methods.",
            ),
        }
    }

    const fn effect_row(self) -> Row {
        match self {
            Self::EffectNotFound => (
                "effect-not-found",
                StatusCode::NOT_FOUND,
                "The ledger has no such effect",
                "It never was, was released, or its window and marker are over; the audit log tells a release.",
            ),
            Self::FenceStale => (
                "fence-stale",
                StatusCode::CONFLICT,
                "Another claim holds the effect than the one you saw",
                "Nothing was changed: look at the effect again and decide on what it is now.",
            ),
            Self::StateConflict => (
                "state-conflict",
                StatusCode::CONFLICT,
                "Not from the state in which the effect is",
                "Nothing was changed: an operator can settle or release only what is unknown.",
            ),
            Self::SettledOtherwise => (
                "settled-otherwise",
                StatusCode::CONFLICT,
                "The effect is settled already, with another answer",
                "The first settlement stands; this one is on the audit log.",
            ),
            Self::TooManyRequests => (
                "too-many-requests",
                StatusCode::TOO_MANY_REQUESTS,
                "Too many settlements at a time, or too many refused ones",
                "Nothing was changed: send it again after the time in Retry-After.",
            ),
            Self::LedgerUnavailable => (
                "ledger-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "The ledger cannot be reached",
                "Nothing was changed: try again; /readyz tells the ledger's health.",
            ),
            Self::LedgerUncertain => (
                "ledger-uncertain",
                StatusCode::SERVICE_UNAVAILABLE,
                "The change may or may not have been written",
                "Repeating the same request is safe: it changes nothing twice.",
            ),
            Self::LedgerStopped => (
                "ledger-stopped",
                StatusCode::SERVICE_UNAVAILABLE,
                "The ledger has stopped",
                "The change may or may not have been written. Mend what /readyz tells, restart semel, look again.",
            ),
            Self::RecordDamaged => (
                "record-damaged",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The effect's record cannot be read back whole",
                "The effect counts as unknown and never runs again by itself; `semel ledger verify` tells more.",
            ),
            Self::ReloadRefused => (
                "reload-refused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The new configuration was refused",
                "The old one is still in force: mend the file, try it with `semel check`, reload again.",
            ),
            _ => (
                "timed-out",
                StatusCode::SERVICE_UNAVAILABLE,
                "The request was not done in time",
                "A change may or may not have been made: repeating the same request is safe.",
            ),
        }
    }
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), pointer: None, code: None, effect: None }
    }

    /// A field of the body that is wrong, by its JSON pointer (RFC 6901).
    pub(crate) fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), ..Self::new(Kind::FieldInvalid, detail) }
    }

    /// With the effect as it is now.
    pub(crate) fn about(self, effect: EffectView) -> Self {
        Self { effect: Some(Box::new(effect)), ..self }
    }

    /// With the code of a remedy page.
    pub(crate) fn explained_by(self, code: Code) -> Self {
        Self { code: Some(code), ..self }
    }

    #[cfg(test)]
    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }
}

/// RFC 9457 section 3, with extension members; `errors` as in its example.
#[derive(Serialize)]
struct Details<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: String,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<[FieldError<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explained_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effect: Option<&'a EffectView>,
}

#[derive(Serialize)]
struct FieldError<'a> {
    detail: &'a str,
    pointer: &'a str,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let (code, status, title, remedy) = self.kind.row();
        let what = if self.detail.is_empty() { title } else { &self.detail };
        let stop = if what.ends_with(['.', '\n']) { "" } else { "." };
        let details = Details {
            r#type: format!("urn:semel:admin-problem:{code}"),
            title,
            status: status.as_u16(),
            detail: format!("{what}{stop} {remedy}"),
            code,
            errors: self.pointer.as_deref().map(|pointer| [FieldError { detail: &self.detail, pointer }]),
            explained_by: self.code.map(|code| code.to_string()),
            effect: self.effect.as_deref(),
        };
        // Strings and numbers always serialise; an empty body would still carry the status.
        let body = serde_json::to_vec(&details).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.kind {
            // RFC 6750 section 3.
            Kind::TokenRequired => headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            Kind::TokenWrong => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""))
            }
            Kind::SettlementTokenRequired | Kind::SettlementTokenWrong => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Semel-Settlement"))
            }
            Kind::TooManyRequests | Kind::LedgerUnavailable | Kind::LedgerUncertain | Kind::TimedOut => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))
            }
            _ => None,
        };
        debug_assert!(!headers.contains_key(ALLOW), "axum adds Allow to a 405");
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_code_of_its_own_and_says_what_to_do() {
        let mut codes: Vec<_> = Kind::ALL.iter().map(|kind| kind.row().0).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            let (code, status, title, remedy) = kind.row();
            assert!(status.is_client_error() || status.is_server_error(), "{code}");
            assert!(!title.ends_with('.') && remedy.ends_with('.'), "{code}");
        }
    }
}
