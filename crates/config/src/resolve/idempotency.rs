//! The contract of one effect: `idempotency = { … }`.

use std::time::Duration;

use http::StatusCode;
use semel_core::answer::HeaderAllowList;
use semel_core::code::Code;
use semel_core::headers::IDEMPOTENCY_KEY;
use semel_core::key::{KeySource, KeySpec};
use semel_core::scope::PrincipalSource;

use super::route::{Draft, plain, plain_one_or_many};
use super::values::Chosen;
use crate::diagnostic::Diagnostic;
use crate::effective::{Ack, Dialect, ForwardKey, Idempotency, Keep, OnLedgerDown, OnUnknown, Probe};
use crate::origin::Origin;
use crate::raw;
use crate::raw::Layer;
use crate::raw::reader::{At, OneOrMany};
use crate::raw::value::{MaybeZero, OnUnknownWord, Size};
use crate::syntax::show_duration;

/// Stripe prunes keys after at least 24 hours; most callers' retry horizons are built on that.
const KEEP: Duration = Duration::from_secs(86_400);
/// Half of it is left when a claim is renewed: longer than any pause of a process that is alive.
const LEASE: Duration = Duration::from_secs(30);
const LEASE_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
/// Believed to come before any execution: authentication, authorization, early data, throttling.
const NOT_EXECUTED: [StatusCode; 4] =
    [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];

/// What the embedded ledger can settle at once: half a segment of its log (8 MiB), less room for everything else.
const ANSWER_BYTES_MAX: u64 = 7 << 20;

macro_rules! get {
    ($field:ident) => {
        |layer: &Layer| -> Option<&At<_>> { layer.idempotency.as_ref()?.value.$field.as_ref() }
    };
}

pub(super) fn resolve(draft: &mut Draft<'_, '_>, total: Duration) -> Option<Idempotency> {
    let key = key(draft)?;
    let required = draft.layers.choose("idempotency.required", get!(required), true).value;
    let principal = principal(draft);
    let keep = keep(draft, &key);
    let seconds = |s| MaybeZero(Duration::from_secs(s));
    let marker = draft.layers.choose("idempotency.marker", get!(marker), seconds(7 * 86_400)).value.0;
    let (on_unknown, probe) = on_unknown(draft, total);
    let lease = lease(draft);
    let join = draft.layers.choose("idempotency.join", get!(join), seconds(5)).value.0;
    let waiters_max = draft.layers.choose("idempotency.waiters", get!(waiters), 128).value;
    let dialect = draft.layers.choose("idempotency.dialect", get!(dialect), Dialect::Ietf).value;
    let (forward_key, forward_header) = forward(draft, &key);
    let ack = draft.layers.choose("idempotency.ack", get!(ack), Ack::Settled).value;
    let store_headers = store_headers(draft);
    let (not_executed, final_statuses) = statuses(draft);
    let store_body = draft.layers.choose("idempotency.store_body", get!(store_body), true).value;
    let response_cap_bytes = response_cap(draft);
    let on_ledger_down = draft.layers.choose("idempotency.on_ledger_down", get!(on_ledger_down), OnLedgerDown::Closed);
    let idempotency = Idempotency {
        key,
        required,
        principal,
        keep,
        marker,
        on_unknown,
        probe,
        lease,
        join,
        waiters_max,
        dialect,
        forward_key,
        forward_header,
        ack,
        store_headers,
        not_executed,
        final_statuses,
        store_body,
        response_cap_bytes,
        on_ledger_down: on_ledger_down.value,
    };
    draft.notes.extend(notes(&idempotency));
    Some(idempotency)
}

fn key(draft: &mut Draft<'_, '_>) -> Option<KeySpec> {
    let default = OneOrMany(vec![At { value: KeySource::Header(IDEMPOTENCY_KEY), span: 0..0 }]);
    let chosen = draft.layers.choose("idempotency.key", get!(key), default);
    let span = chosen.span_or(&draft.effect.span);
    for part in &chosen.value.0 {
        let KeySource::Path(name) = &part.value else { continue };
        let patterns = draft.patterns;
        if let Some(without) = patterns.iter().find(|p| !p.value.path.parameters().any(|q| *q == **name)) {
            let message = format!("the key needs the parameter `{{{name}}}`, which `{}` does not have", without.value);
            let found = Diagnostic::error(Code::CONTRADICTION, part.span.clone(), message)
                .related(without.span.clone(), "this path")
                .help("name a parameter of the path, or take the key from elsewhere");
            draft.found.push(found);
        }
    }
    KeySpec::new(plain_one_or_many(chosen.value))
        .map_err(|e| draft.found.push(Diagnostic::error(Code::INVALID_VALUE, span, e.to_string())))
        .ok()
}

fn principal(draft: &mut Draft<'_, '_>) -> PrincipalSource {
    let chosen = draft.layers.choose("idempotency.principal", get!(principal), PrincipalSource::Credential);
    if matches!(chosen.value, PrincipalSource::Header(_)) && draft.trusts_nobody {
        let help = "list the proxies that set this header: trusted_proxies = [\"10.0.0.0/8\"]";
        let span = chosen.span_or(&draft.effect.span);
        draft.contradiction(span, "a principal from a header needs `trusted_proxies`: now nobody is believed", help);
    }
    chosen.value
}

fn keep(draft: &mut Draft<'_, '_>, key: &KeySpec) -> Keep {
    let default = if key.is_natural() {
        (Keep::Forever, Origin::Implied("a natural key (no header)"))
    } else {
        (Keep::For(KEEP), Origin::Default)
    };
    draft.layers.choose_or("idempotency.keep", get!(keep), default).value
}

fn on_unknown(draft: &mut Draft<'_, '_>, total: Duration) -> (OnUnknown, Option<Probe>) {
    let word = draft.layers.choose("idempotency.on_unknown", get!(on_unknown), OnUnknownWord::Hold);
    let upstream_keep = draft.layers.optional("idempotency.upstream_keep", get!(upstream_keep));
    let probe = probe(draft);
    let span = word.span_or(&draft.effect.span);
    let on_unknown = match (word.value, upstream_keep) {
        (OnUnknownWord::Hold, _) => OnUnknown::Hold,
        (OnUnknownWord::Probe, _) => {
            if probe.is_none() {
                let help = "say where to ask: probe = { url = \"http://127.0.0.1:9000/status/{key}\" }";
                draft.contradiction(span, "`on_unknown = \"probe\"` needs a probe URL", help);
            }
            OnUnknown::Probe
        }
        (OnUnknownWord::Retry, Some(keep)) => {
            if keep.value < total {
                let at = keep.span_or(&span);
                let message = format!(
                    "the upstream forgets keys after {} while one call may take {}",
                    show_duration(keep.value),
                    show_duration(total)
                );
                draft.contradiction(at, message, "raise `upstream_keep` (if it is true), or shorten `timeout.total`");
            }
            OnUnknown::Retry { upstream_keep: keep.value }
        }
        (OnUnknownWord::Retry, None) => {
            let help = "say how long the upstream remembers a key: upstream_keep = \"24h\"";
            draft.contradiction(span, "`on_unknown = \"retry\"` needs `upstream_keep`", help);
            OnUnknown::Hold
        }
    };
    (on_unknown, probe)
}

fn probe(draft: &mut Draft<'_, '_>) -> Option<Probe> {
    fn raw(layer: &Layer) -> Option<&raw::Probe> {
        layer.idempotency.as_ref()?.value.probe.as_ref().map(|at| &at.value)
    }
    let url = draft.layers.optional("idempotency.probe.url", |l| raw(l)?.url.as_ref())?;
    let two = Duration::from_secs(2);
    let timeout = draft.layers.choose("idempotency.probe.timeout", |l| raw(l)?.timeout.as_ref(), two);
    Some(Probe { url: url.value.0, timeout: timeout.value })
}

fn forward(draft: &mut Draft<'_, '_>, key: &KeySpec) -> (ForwardKey, http::HeaderName) {
    let how = draft.layers.choose("idempotency.forward_key", get!(forward_key), ForwardKey::Hmac);
    let default = match key.sources() {
        [KeySource::Header(name)] => (name.clone(), Origin::Implied("idempotency.key")),
        _ => (IDEMPOTENCY_KEY, Origin::Default),
    };
    let header = draft.layers.choose_or("idempotency.forward_header", get!(forward_header), default);
    let one_header = matches!(key.sources(), [KeySource::Header(_)]);
    if how.value == ForwardKey::AsIs && !one_header {
        let help = "use \"hmac\": it gives every effect one key, whatever parts it is made of";
        let span = how.span_or(&draft.effect.span);
        draft.contradiction(span, "`forward_key = \"as-is\"` needs a key from one header", help);
    }
    let name = header.value.as_str();
    let framing = ["host", "content-length", "content-type", "authorization", "cookie", "expect"].contains(&name);
    if framing || semel_core::headers::HOP_BY_HOP.contains(&header.value) || name.starts_with("semel-") {
        let span = header.span_or(&draft.effect.span);
        draft.contradiction(span, format!("the key cannot travel in `{name}`"), "use a header of its own");
    }
    (how.value, header.value)
}

fn store_headers(draft: &mut Draft<'_, '_>) -> HeaderAllowList {
    let chosen = draft.layers.choose("idempotency.store_headers", get!(store_headers), Vec::new());
    for at in &chosen.value {
        if let Err(refused) = HeaderAllowList::new(vec![at.value.clone()]) {
            draft.found.push(Diagnostic::error(Code::INVALID_VALUE, at.span.clone(), refused.to_string()));
        }
    }
    HeaderAllowList::new(plain(chosen.value)).unwrap_or_default()
}

fn statuses(draft: &mut Draft<'_, '_>) -> (Vec<StatusCode>, Vec<StatusCode>) {
    let default = NOT_EXECUTED.map(|value| At { value, span: 0..0 }).to_vec();
    let not_executed = draft.layers.choose("idempotency.not_executed", get!(not_executed), default);
    let finals = draft.layers.choose("idempotency.final", get!(final_statuses), Vec::new());
    for at in &finals.value {
        if not_executed.value.iter().any(|other| other.value == at.value) {
            let Chosen { span, .. } = &not_executed;
            let message =
                format!("{} cannot both prove `not_executed` and settle the effect (`final`)", at.value.as_u16());
            let found = Diagnostic::error(Code::CONTRADICTION, at.span.clone(), message)
                .help("remove it from one of the two lists (a `not_executed` list replaces the default one)");
            draft.found.push(match span {
                Some(span) => found.related(span.clone(), "the other list"),
                None => found,
            });
        }
    }
    (plain(not_executed.value), plain(finals.value))
}

fn lease(draft: &mut Draft<'_, '_>) -> Duration {
    let lease = draft.layers.choose("idempotency.lease", get!(lease), LEASE);
    if !LEASE_RANGE.contains(&lease.value) {
        let message = "the value of `idempotency.lease` cannot be used: it is out of range";
        let found = Diagnostic::error(Code::INVALID_VALUE, lease.span_or(&draft.effect.span), message);
        draft.found.push(found.help("at least \"1s\", so that a slow ledger does not end it, and at most \"10m\""));
    }
    lease.value
}

fn response_cap(draft: &mut Draft<'_, '_>) -> u64 {
    let cap = draft.layers.choose("idempotency.response_cap", get!(response_cap), Size(1 << 20));
    if cap.value.0 > ANSWER_BYTES_MAX {
        let span = cap.span_or(&draft.effect.span);
        let help = "larger answers are streamed and count as consumed: at most \"7MiB\"";
        draft.contradiction(span, "the embedded ledger cannot keep answers of that size", help);
    } else if cap.value.0 > draft.limits.buffered_bytes_max {
        let help = "lower it, or raise `limits.buffered`: such answers are held in memory whole";
        let span = cap.span_or(&draft.effect.span);
        draft.contradiction(span, "`idempotency.response_cap` is larger than `limits.buffered`", help);
    }
    cap.value.0
}

/// What a person should know about this contract.
fn notes(i: &Idempotency) -> Vec<String> {
    let list = |statuses: &[StatusCode]| statuses.iter().map(|s| s.as_str().to_owned()).collect::<Vec<_>>().join(", ");
    let mut notes = Vec::new();
    if i.not_executed.is_empty() {
        notes.push("no status is believed to prove that nothing was executed".to_owned());
    } else {
        let list = list(&i.not_executed);
        notes.push(format!(
            "assumed: an answer {list} proves that nothing was executed (an upstream that lies is believed)"
        ));
    }
    if !i.final_statuses.is_empty() {
        notes.push(format!("assumed: an answer {} is final: it settles the effect", list(&i.final_statuses)));
    }
    if let OnUnknown::Retry { upstream_keep } = i.on_unknown {
        let keep = show_duration(upstream_keep);
        notes.push(format!(
            "assumed: the upstream honours the forwarded key for {keep}; if it forgets sooner, it runs twice"
        ));
    }
    if i.principal == PrincipalSource::None {
        notes.push("all callers share one key space: whoever knows a key sees its answer".to_owned());
    }
    if !i.required {
        notes.push("requests without a key are passed through unprotected".to_owned());
    }
    if i.ack == Ack::Early {
        notes.push(
            "the caller is answered before the settlement is durable: a crash in between leaves it unknown".to_owned(),
        );
    }
    if i.on_ledger_down == OnLedgerDown::Open {
        notes.push("DANGER: while the ledger is down, requests are sent unprotected and may run twice".to_owned());
    }
    notes
}
