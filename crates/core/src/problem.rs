//! What a caller is told when the gateway itself answers: RFC 9457 problem details, as data.
//!
//! Every answer says in words whether repeating is safe, and in headers whether an SDK should do it.

mod kind;
mod table;

pub use kind::ProblemKind;

use crate::dialect::{Dialect, Envelope};
use crate::evidence::EffectMark;
use crate::headers::{SEMEL_EFFECT, SEMEL_EFFECT_ID, SEMEL_SOURCE, STRIPE_SHOULD_RETRY, X_SHOULD_RETRY};
use crate::scope::EffectId;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde::Serialize;

/// Longest Retry-After, in seconds: official SDKs ignore longer ones.
pub const RETRY_AFTER_SECONDS_MAX: u32 = 60;

/// One refusal, with what is known about the effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    kind: ProblemKind,
    detail: Option<String>,
    effect: EffectMark,
    effect_id: Option<EffectId>,
    stored_status: Option<StatusCode>,
    status_link: Option<String>,
    retry_after_seconds: Option<u32>,
}

impl Problem {
    /// A refusal of this kind, with the kind's usual words.
    #[must_use]
    pub const fn new(kind: ProblemKind) -> Self {
        Self {
            kind,
            detail: None,
            effect: kind.effect(),
            effect_id: None,
            stored_status: None,
            status_link: None,
            retry_after_seconds: kind.retry_after_seconds(),
        }
    }

    /// What exactly happened, instead of the kind's usual words. Never put another caller's data in it.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The effect that this is about.
    #[must_use]
    pub const fn about(mut self, id: EffectId) -> Self {
        self.effect_id = Some(id);
        self
    }

    /// What is known about the effect, where the record says more than the kind does.
    #[must_use]
    pub const fn effect(mut self, mark: EffectMark) -> Self {
        self.effect = mark;
        self
    }

    /// The status that the upstream once answered, where only a tombstone is left.
    #[must_use]
    pub const fn stored_status(mut self, status: StatusCode) -> Self {
        self.stored_status = Some(status);
        self
    }

    /// Where the effect's state can be asked for.
    #[must_use]
    pub fn status_link(mut self, link: impl Into<String>) -> Self {
        self.status_link = Some(link.into());
        self
    }

    /// When to ask again, in seconds; kept between 1 and [`RETRY_AFTER_SECONDS_MAX`].
    #[must_use]
    pub fn retry_after_seconds(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds.clamp(1, RETRY_AFTER_SECONDS_MAX));
        self
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// The whole answer in a dialect. CORS headers, the echoed key and the window are the gateway's to add.
    #[must_use]
    pub fn render(&self, dialect: &Dialect) -> Response<Bytes> {
        let row = dialect.row(self.kind);
        let mut response = Response::new(Bytes::from(self.body(dialect)));
        *response.status_mut() = row.status;
        self.headers(dialect, response.headers_mut());
        response
    }

    fn headers(&self, dialect: &Dialect, headers: &mut HeaderMap) {
        headers.reserve(10);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(dialect.envelope.content_type()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(SEMEL_SOURCE, HeaderValue::from_static("gateway"));
        headers.insert(SEMEL_EFFECT, HeaderValue::from_static(self.effect.as_str()));
        let should_retry = HeaderValue::from_static(if self.kind.should_retry() { "true" } else { "false" });
        headers.insert(X_SHOULD_RETRY, should_retry.clone());
        headers.insert(STRIPE_SHOULD_RETRY, should_retry);
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(id) = self.effect_id.and_then(|id| HeaderValue::from_bytes(&id.to_ascii()).ok()) {
            headers.insert(SEMEL_EFFECT_ID, id);
        }
        if self.kind == ProblemKind::PrincipalRequired {
            // RFC 9110 section 11.6.1: a 401 names a challenge.
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
    }

    fn body(&self, dialect: &Dialect) -> Vec<u8> {
        let row = dialect.row(self.kind);
        let detail = self.detail.as_deref().unwrap_or(self.kind.title());
        let detail = format!("{}. {}", detail.trim_end_matches('.'), self.kind.repeat());
        let extensions = Extensions {
            effect: self.effect.as_str(),
            effect_id: self.effect_id.map(|id| id.to_string()),
            stored_status: self.stored_status.map(|status| status.as_u16()),
            status_link: self.status_link.as_deref(),
        };
        let code = row.code.unwrap_or(self.kind.code());
        let json = match dialect.envelope {
            Envelope::Problem => serde_json::to_vec(&ProblemDetails {
                r#type: self.kind.type_uri(),
                title: self.kind.title(),
                status: row.status.as_u16(),
                detail,
                code,
                extensions,
            }),
            Envelope::Stripe => serde_json::to_vec(&StripeBody {
                error: StripeError { r#type: row.error_type, code, message: detail, extensions },
            }),
        };
        // Strings and numbers always serialise; an empty body would still carry every header.
        json.unwrap_or_default()
    }
}

/// RFC 9457 section 3, with extension members.
#[derive(Serialize)]
struct ProblemDetails<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: String,
    code: &'a str,
    #[serde(flatten)]
    extensions: Extensions<'a>,
}

/// The error object that Stripe's SDKs read.
#[derive(Serialize)]
struct StripeBody<'a> {
    error: StripeError<'a>,
}

#[derive(Serialize)]
struct StripeError<'a> {
    r#type: &'a str,
    code: &'a str,
    message: String,
    #[serde(flatten)]
    extensions: Extensions<'a>,
}

#[derive(Serialize)]
struct Extensions<'a> {
    effect: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    effect_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_link: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn body(response: &Response<Bytes>) -> Value {
        serde_json::from_slice(response.body()).unwrap()
    }

    #[test]
    fn a_whole_answer() {
        let problem = Problem::new(ProblemKind::Consumed)
            .about(EffectId::from_bytes([0; 16]))
            .stored_status(StatusCode::CREATED)
            .status_link("/_semel/effects/ef_0");
        let response = problem.render(&Dialect::IETF);
        assert_eq!(response.status(), 409);
        assert_eq!(
            body(&response),
            json!({
                "type": "urn:semel:problem:consumed",
                "title": "The effect was executed and its answer is not kept",
                "status": 409,
                "detail": "The effect was executed and its answer is not kept. Repeating this request with the same key \
                           is safe and gives this answer again; a new key would execute it a second time.",
                "code": "consumed",
                "effect": "committed",
                "effect_id": "ef_00000000000000000000000000",
                "stored_status": 201,
                "status_link": "/_semel/effects/ef_0",
            })
        );
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("content-type"), Some("application/problem+json"));
        assert_eq!(header("semel-source"), Some("gateway"));
        assert_eq!(header("semel-effect"), Some("committed"));
        assert_eq!(header("semel-effect-id"), Some("ef_00000000000000000000000000"));
        assert_eq!(header("x-should-retry"), Some("false"));
        assert_eq!(header("stripe-should-retry"), Some("false"));
        assert_eq!(header("retry-after"), None);
    }

    #[test]
    fn every_kind_in_every_dialect() {
        for kind in ProblemKind::ALL {
            for dialect in Dialect::ALL {
                let response = Problem::new(kind).detail("What happened.").render(dialect);
                assert!(response.status().is_client_error() || response.status().is_server_error(), "{kind:?}");
                let body = body(&response).to_string();
                assert!(body.contains(&format!("What happened. {}", kind.repeat())), "{body}");
                let retry = &response.headers()["x-should-retry"];
                assert_eq!(retry, if kind.should_retry() { "true" } else { "false" });
                assert_eq!(retry, &response.headers()["stripe-should-retry"]);
                assert_eq!(kind.should_retry(), response.headers().contains_key("retry-after"), "{kind:?}");
            }
        }
    }

    #[test]
    fn what_a_chained_gateway_must_not_take_for_not_executed() {
        // 401, 403, 425 and 429 are assumed not executed: nothing that is open or done may use them.
        for kind in ProblemKind::ALL.into_iter().filter(|kind| kind.effect() != EffectMark::None) {
            for dialect in Dialect::ALL {
                assert!(![401, 403, 425, 429].contains(&dialect.row(kind).status.as_u16()), "{kind:?}");
            }
        }
    }

    #[test]
    fn retry_after_is_bounded() {
        let header = |seconds| {
            let problem = Problem::new(ProblemKind::InFlight).retry_after_seconds(seconds);
            problem.render(&Dialect::IETF).headers()["retry-after"].to_str().unwrap().to_owned()
        };
        assert_eq!((header(0), header(7), header(3_600)), ("1".into(), "7".into(), "60".into()));
    }

    #[test]
    fn the_record_may_know_more_than_the_kind() {
        let problem = Problem::new(ProblemKind::PrincipalUnverified).effect(EffectMark::Open);
        assert_eq!(problem.render(&Dialect::IETF).headers()["semel-effect"], "open");
    }

    #[test]
    fn stripe_sdks_find_their_error_object() {
        let response = Problem::new(ProblemKind::KeyReused).render(&Dialect::STRIPE);
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(body(&response)["error"]["type"], "idempotency_error");
        let response = Problem::new(ProblemKind::InFlight).render(&Dialect::STRIPE);
        assert_eq!(
            (response.status().as_u16(), &body(&response)["error"]["code"]),
            (409, &json!("idempotency_key_in_use"))
        );
        assert_eq!(response.headers()["stripe-should-retry"], "true");
    }
}
