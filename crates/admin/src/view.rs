//! Effects and audit lines as the API shows them. Never a key: the ledger has none, only hashes.

use std::time::{Duration, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use semel_core::{
    answer::StoredHeaders,
    effect::{AuditEvent, Authority, Phase, Record, State, UnknownReason},
    scope::EffectId,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// An effect as the admin API shows it, for those who read a ledger without a gateway.
#[must_use]
pub fn effect_json(record: &Record, now: Timestamp, body: bool) -> serde_json::Value {
    // Strings, numbers and lists always serialise.
    serde_json::to_value(EffectView::new(record, now, body)).unwrap_or_default()
}

/// A line of the audit log as the admin API shows it.
#[must_use]
pub fn audit_json(number: u64, event: &AuditEvent) -> serde_json::Value {
    serde_json::to_value(AuditView::new(number, event)).unwrap_or_default()
}

/// The last moment that RFC 3339 can write: the end of the year 9999, in milliseconds.
const RFC3339_MAX_MS: u64 = 253_402_300_799_999;

/// One effect at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct EffectView {
    effect_id: String,
    state: &'static str,
    fence: u64,
    scope: String,
    upstream: String,
    on_unknown: &'static str,
    attempts: u32,
    was_unknown: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_at: Option<String>,
    /// Open: the end of the owner's lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_until: Option<String>,
    /// Unknown: since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_since: Option<String>,
    /// Unknown: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settled_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settled_by: Option<AuthorityView>,
    /// The end of the answer's window; absent when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    marker_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<AnswerView>,
}

/// What is kept of an answer.
#[derive(Debug, Serialize)]
struct AnswerView {
    status: u16,
    headers: Vec<HeaderField>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_sha256: Option<String>,
    /// The body, when it was asked for and is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body, when it was asked for and is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// One header field, as HAR 1.2 writes it: order and repetitions stay.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderField {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// Who did something.
#[derive(Debug, Serialize)]
pub(crate) struct AuthorityView {
    authority: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// One line of the audit log.
#[derive(Debug, Serialize)]
pub(crate) struct AuditView {
    /// As text, which ProtoJSON does with 64 bits, too: engines use all of them and JSON readers have 53.
    number: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effect_id: Option<String>,
    fence: u64,
    kind: &'static str,
    by: AuthorityView,
    detail: String,
}

/// The word for a phase. A lapsed lease makes an effect unknown, whether or not somebody wrote that down yet.
pub(crate) const fn state_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Lapsed => Phase::Unknown.as_str(),
        _ => phase.as_str(),
    }
}

impl EffectView {
    /// The record as it stands at `now`; with `body`, the kept body too.
    pub(crate) fn new(record: &Record, now: Timestamp, body: bool) -> Self {
        let phase = record.phase(now);
        let terms = &record.terms;
        let plain = Self {
            effect_id: record.id.to_string(),
            state: state_word(phase),
            fence: record.fence.0,
            scope: terms.scope.to_string(),
            upstream: terms.upstream.to_string(),
            on_unknown: terms.on_unknown.as_str(),
            attempts: record.attempts,
            was_unknown: record.was_unknown || phase == Phase::Lapsed,
            claimed_at: rfc3339(record.claimed_at),
            lease_until: None,
            unknown_since: None,
            unknown_reason: None,
            settled_at: None,
            settled_by: None,
            until: None,
            marker_until: None,
            answer: None,
        };
        let unknown = |since, reason: UnknownReason| (rfc3339(since), Some(reason.as_str()));
        match &record.state {
            State::Open { lease_until, .. } if phase == Phase::Lapsed => {
                let (unknown_since, unknown_reason) = unknown(*lease_until, UnknownReason::LeaseLapsed);
                Self { unknown_since, unknown_reason, ..plain }
            }
            State::Open { lease_until, .. } => Self { lease_until: rfc3339(*lease_until), ..plain },
            State::Unknown { since, reason } => {
                let (unknown_since, unknown_reason) = unknown(*since, *reason);
                Self { unknown_since, unknown_reason, ..plain }
            }
            // Past its window an answer is gone, whether or not the engine has swept it.
            State::Settled { marker_until, .. }
            | State::Consumed { marker_until, .. }
            | State::Expired { marker_until }
                if phase == Phase::Expired =>
            {
                Self { marker_until: rfc3339(*marker_until), ..plain }
            }
            State::Settled { answer, by, at, until, marker_until } => {
                let answer = AnswerView::new(answer.status.as_u16(), &answer.headers).with_body(&answer.body, body);
                plain.settled(answer, by, [*at, *until, *marker_until])
            }
            State::Consumed { tombstone, by, at, until, marker_until } => {
                let answer = AnswerView::new(tombstone.status.as_u16(), &tombstone.headers);
                let body_sha256 = tombstone.body_digest.map(|digest| hex(&digest));
                plain.settled(AnswerView { body_sha256, ..answer }, by, [*at, *until, *marker_until])
            }
            State::Expired { .. } => plain,
        }
    }

    fn settled(self, answer: AnswerView, by: &Authority, [at, until, marker_until]: [Timestamp; 3]) -> Self {
        Self {
            settled_at: rfc3339(at),
            settled_by: Some(AuthorityView::new(by)),
            until: rfc3339(until),
            marker_until: rfc3339(marker_until),
            answer: Some(answer),
            ..self
        }
    }
}

impl AnswerView {
    fn new(status: u16, headers: &StoredHeaders) -> Self {
        let headers = headers.iter().map(|(name, value)| HeaderField {
            name: name.to_string(),
            value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
        });
        let headers = headers.collect();
        Self { status, headers, body_bytes: None, body_sha256: None, body: None, body_base64: None }
    }

    fn with_body(self, bytes: &[u8], show: bool) -> Self {
        let text = std::str::from_utf8(bytes).ok().filter(|_| show);
        let body_base64 = (show && text.is_none()).then(|| STANDARD.encode(bytes));
        Self { body_bytes: Some(bytes.len()), body: text.map(str::to_owned), body_base64, ..self }
    }
}

impl AuthorityView {
    fn new(by: &Authority) -> Self {
        let (name, reason) = match by {
            Authority::Operator { name, reason } => (Some(name.to_string()), Some(reason.to_string())),
            _ => (None, None),
        };
        Self { authority: by.as_str(), name, reason }
    }
}

impl AuditView {
    pub(crate) fn new(number: u64, event: &AuditEvent) -> Self {
        Self {
            number: number.to_string(),
            at: rfc3339(event.at),
            effect_id: event.id.as_ref().map(EffectId::to_string),
            fence: event.fence.0,
            kind: event.kind.as_str(),
            by: AuthorityView::new(&event.by),
            detail: event.detail.to_string(),
        }
    }
}

/// The moment as RFC 3339 writes it, in UTC with milliseconds; none when it lies beyond what that can say, which a
/// window without end does.
fn rfc3339(at: Timestamp) -> Option<String> {
    let millis = at.as_millis();
    let time = UNIX_EPOCH + Duration::from_millis(millis.min(RFC3339_MAX_MS));
    (millis <= RFC3339_MAX_MS).then(|| humantime::format_rfc3339_millis(time).to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_rfc3339_or_not_at_all() {
        assert_eq!(rfc3339(Timestamp::EPOCH).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(rfc3339(Timestamp::from_millis(1_800_000_000_123)).as_deref(), Some("2027-01-15T08:00:00.123Z"));
        assert_eq!(rfc3339(Timestamp::from_millis(RFC3339_MAX_MS)).as_deref(), Some("9999-12-31T23:59:59.999Z"));
        assert_eq!(rfc3339(Timestamp::from_millis(RFC3339_MAX_MS + 1)), None);
        assert_eq!(rfc3339(Timestamp::NEVER), None);
    }

    #[test]
    fn bodies_are_shown_as_text_or_base64_and_only_when_asked_for() {
        let answer = || AnswerView::new(200, &StoredHeaders::default());
        let hidden = answer().with_body(b"secret", false);
        assert_eq!((hidden.body_bytes, hidden.body, hidden.body_base64), (Some(6), None, None));
        assert_eq!(answer().with_body(b"text", true).body.as_deref(), Some("text"));
        let binary = answer().with_body(&[0xff, 0], true);
        assert_eq!((binary.body, binary.body_base64.as_deref()), (None, Some("/wA=")));
    }
}
