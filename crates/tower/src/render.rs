//! What a call came to, as the answer its caller gets: the contract's table "Towards the caller".

use http::{HeaderMap, HeaderValue, Response, header};
use semel_core::{
    answer::{StoredAnswer, Tombstone},
    effect::{FOREVER_MS, OnUnknown},
    evidence::{AttemptEnd, EffectMark, NotSent},
    headers::{
        IDEMPOTENCY_WINDOW, IDEMPOTENT_REPLAYED, SEMEL_EFFECT, SEMEL_EFFECT_ID, SEMEL_SOURCE, STRIPE_SHOULD_RETRY,
        X_SHOULD_RETRY, number,
    },
    problem::{Problem, ProblemKind},
};

use crate::{Body, Conclusion, Echo, Keyed, Refused, UpstreamAnswer};

/// Names that only the gateway may put on an answer, by their beginning. A key that the upstream echoes is the one
/// that it was sent, not the caller's.
const OURS: [&str; 3] = ["semel-", "idempotent-", "idempotency-"];
/// Room for what is added to every answer, here and by the gateway: one table for all of it.
const OWN_COUNT: usize = 10;
const TRUE: HeaderValue = HeaderValue::from_static("true");
const FALSE: HeaderValue = HeaderValue::from_static("false");
const UPSTREAM: HeaderValue = HeaderValue::from_static("upstream");

impl Keyed {
    /// The answer that `conclusion` is for its caller. CORS is the gateway's to add.
    #[must_use]
    pub fn render(&self, conclusion: Conclusion, echo: &Echo) -> Response<Body> {
        let mut response = match conclusion {
            Conclusion::Executed(answer) => from_upstream(answer, EffectMark::Committed),
            Conclusion::Replayed(answer) => replayed(answer),
            Conclusion::NotExecuted { answer: Some(answer), .. } => from_upstream(answer, EffectMark::None),
            Conclusion::NotExecuted { answer: None, end } => self.problem(&Problem::new(not_executed(end)), echo),
            Conclusion::Unknown { answer: Some(answer) } => {
                let mut response = from_upstream(answer, EffectMark::Unknown);
                self.advise_on_unknown(response.headers_mut());
                response
            }
            Conclusion::Unknown { answer: None } => self.unknown(ProblemKind::OutcomeUnknown, echo),
            Conclusion::Refused { why: Refused::OutcomeUnknown, .. } => {
                self.unknown(ProblemKind::OutcomeStillUnknown, echo)
            }
            Conclusion::Refused { why, tombstone } => self.problem(&refused(why, tombstone.as_ref()), echo),
        };
        self.sign(response.headers_mut(), echo);
        response
    }

    /// A refusal from before the request became an effect, in the route's dialect.
    #[must_use]
    pub fn refuse(&self, problem: &Problem) -> Response<Body> {
        let mut response = problem.render(self.dialect).map(Body::Whole);
        self.publish_window(response.headers_mut());
        response
    }

    fn problem(&self, problem: &Problem, echo: &Echo) -> Response<Body> {
        problem.clone().about(echo.id).render(self.dialect).map(Body::Whole)
    }

    fn unknown(&self, kind: ProblemKind, echo: &Echo) -> Response<Body> {
        let mut problem = Problem::new(kind);
        if let Some(path) = &self.status_path {
            problem = problem.status_link(format!("{path}{}", echo.id));
        }
        let mut response = self.problem(&problem, echo);
        self.advise_on_unknown(response.headers_mut());
        response
    }

    /// Where a duplicate makes progress (by attempting or by asking), an SDK should send one; where only a person or
    /// the upstream can, it would hammer in vain.
    fn advise_on_unknown(&self, headers: &mut HeaderMap) {
        let advice = match self.policy.terms.on_unknown {
            OnUnknown::Hold => FALSE,
            OnUnknown::Retry | OnUnknown::Probe => {
                headers.entry(header::RETRY_AFTER).or_insert(HeaderValue::from_static("1"));
                TRUE
            }
        };
        headers.insert(X_SHOULD_RETRY, advice.clone());
        headers.insert(STRIPE_SHOULD_RETRY, advice);
    }

    fn sign(&self, headers: &mut HeaderMap, echo: &Echo) {
        headers.reserve(OWN_COUNT / 2);
        if let Ok(id) = HeaderValue::from_bytes(&echo.id.to_ascii()) {
            headers.insert(SEMEL_EFFECT_ID, id);
        }
        if let Some((name, value)) = &echo.key {
            headers.insert(name.clone(), value.clone());
        }
        self.publish_window(headers);
    }

    /// The window in seconds; a window without an end is not published, for no number says so.
    fn publish_window(&self, headers: &mut HeaderMap) {
        let keep_ms = self.policy.terms.keep_ms;
        if keep_ms != FOREVER_MS {
            headers.insert(IDEMPOTENCY_WINDOW, number(keep_ms / 1000));
        }
    }
}

fn from_upstream(answer: UpstreamAnswer, effect: EffectMark) -> Response<Body> {
    let mut response = Response::new(answer.body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    let headers = response.headers_mut();
    disown(headers);
    headers.insert(SEMEL_SOURCE, UPSTREAM);
    headers.insert(SEMEL_EFFECT, HeaderValue::from_static(effect.as_str()));
    response
}

fn replayed(answer: StoredAnswer) -> Response<Body> {
    let mut response = Response::new(Body::Whole(answer.body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.reserve(answer.headers.iter().len() + OWN_COUNT);
    answer.headers.append_to(headers);
    headers.insert(SEMEL_SOURCE, UPSTREAM);
    headers.insert(SEMEL_EFFECT, HeaderValue::from_static(EffectMark::Committed.as_str()));
    headers.insert(IDEMPOTENT_REPLAYED, TRUE);
    response
}

/// Takes off what the upstream has no right to say.
fn disown(headers: &mut HeaderMap) {
    let is_ours = |name: &str| OURS.iter().any(|prefix| name.starts_with(prefix));
    if !headers.keys().any(|name| is_ours(name.as_str())) {
        return;
    }
    let forged: Vec<_> = headers.keys().filter(|name| is_ours(name.as_str())).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
}

const fn not_executed(end: Option<AttemptEnd>) -> ProblemKind {
    match end {
        Some(AttemptEnd::NotSent(NotSent::ConnectTimeout)) => ProblemKind::UpstreamConnectTimeout,
        Some(AttemptEnd::NotSent(
            NotSent::Dns | NotSent::ConnectFailed | NotSent::HandedBack | NotSent::NoByteWritten,
        )) => ProblemKind::UpstreamUnreachable,
        // Or an answer that proves it, of which nothing was kept.
        Some(AttemptEnd::NotSent(NotSent::RefusedHere) | AttemptEnd::Answered { .. } | AttemptEnd::Lost(_)) => {
            ProblemKind::UpstreamUnavailable
        }
        None => ProblemKind::DeadlineExceeded,
    }
}

fn refused(why: Refused, tombstone: Option<&Tombstone>) -> Problem {
    let problem = Problem::new(match why {
        Refused::KeyReused => ProblemKind::KeyReused,
        Refused::InFlight => ProblemKind::InFlight,
        Refused::Released => ProblemKind::Released,
        Refused::Consumed => ProblemKind::Consumed,
        Refused::KeyExpired => ProblemKind::KeyExpired,
        Refused::OutcomeUnknown => ProblemKind::OutcomeStillUnknown,
        Refused::PrincipalUnverified => ProblemKind::PrincipalUnverified,
        Refused::TooManyWaiters => ProblemKind::TooManyWaiters,
        Refused::LedgerUnavailable => ProblemKind::LedgerUnavailable,
        Refused::ClaimsPaused => ProblemKind::DiskReserve,
        Refused::DeadlineExceeded => ProblemKind::DeadlineExceeded,
        Refused::ReducedCapacity => ProblemKind::ReducedCapacity,
    });
    match tombstone {
        Some(Tombstone { status, .. }) => problem.stored_status(*status),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::{HeaderName, StatusCode};
    use semel_core::{answer::HeaderAllowList, effect::Terms, scope::EffectId};
    use serde_json::Value;

    use super::*;
    use crate::EffectPolicy;

    fn keyed(on_unknown: OnUnknown) -> Keyed {
        let terms = Terms {
            scope: "payments".into(),
            upstream: "payments".into(),
            on_unknown,
            upstream_keep_ms: 3_600_000,
            keep_ms: 86_400_000,
            marker_ms: 0,
        };
        let keyed = Keyed::new(Arc::new(EffectPolicy::new(Arc::new(terms))));
        Keyed { status_path: Some("/effects/".into()), ..keyed }
    }

    fn echo() -> Echo {
        let key = (HeaderName::from_static("idempotency-key"), HeaderValue::from_static("\"k\""));
        Echo { id: EffectId::from_bytes([0; 16]), key: Some(key) }
    }

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> UpstreamAnswer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        UpstreamAnswer { status: StatusCode::from_u16(status).unwrap(), headers: map, body: Body::from("done") }
    }

    /// The values of `names` on the answer; an empty text for each that is not there.
    fn shown<'a>(response: &'a Response<Body>, names: &[&str]) -> Vec<&'a str> {
        let value = |name: &&str| response.headers().get(*name).map_or("", |value| value.to_str().unwrap());
        names.iter().map(value).collect()
    }

    fn body(response: &Response<Body>) -> Value {
        serde_json::from_slice(response.body().as_whole().unwrap()).unwrap()
    }

    const FACTS: [&str; 5] =
        ["semel-source", "semel-effect", "idempotency-window", "idempotency-key", "idempotent-replayed"];
    const ADVICE: [&str; 3] = ["x-should-retry", "stripe-should-retry", "retry-after"];

    #[test]
    fn what_was_executed_is_the_upstream_s_answer() {
        let forged = answer(
            201,
            &[
                ("content-type", "text/plain"),
                ("set-cookie", "a=b"),
                ("idempotency-key", "once-123"),
                ("semel-source", "gateway"),
                ("semel-source", "gateway"),
                ("semel-effect", "none"),
                ("semel-effect-id", "ef_x"),
                ("semel-anything", "1"),
                ("idempotent-replayed", "true"),
                ("idempotency-window", "1"),
            ],
        );
        let response = keyed(OnUnknown::Hold).render(Conclusion::Executed(forged), &echo());
        assert_eq!(response.status(), 201);
        assert_eq!(shown(&response, &FACTS), ["upstream", "committed", "86400", "\"k\"", ""]);
        assert_eq!(shown(&response, &["semel-effect-id"]), ["ef_00000000000000000000000000"]);
        assert_eq!(shown(&response, &["set-cookie", "semel-anything"]), ["a=b", ""]);
        assert_eq!(response.headers().get_all("semel-source").iter().count(), 1);
        assert_eq!(response.body().as_whole().unwrap(), "done");
    }

    #[test]
    fn a_replay_says_that_it_is_one() {
        let original = answer(201, &[("location", "/charges/1"), ("set-cookie", "a=b")]);
        let headers = HeaderAllowList::default().filter(&original.headers);
        let stored = StoredAnswer { status: original.status, headers, body: Bytes::from_static(b"done") };
        let response = keyed(OnUnknown::Hold).render(Conclusion::Replayed(stored), &echo());
        assert_eq!(response.status(), 201);
        assert_eq!(shown(&response, &FACTS), ["upstream", "committed", "86400", "\"k\"", "true"]);
        assert_eq!(shown(&response, &["location", "set-cookie"]), ["/charges/1", ""]);
        assert_eq!(response.body().as_whole().unwrap(), "done");
    }

    #[test]
    fn a_refusal_of_the_upstream_passes_with_its_meaning() {
        let conclusion = Conclusion::NotExecuted { answer: Some(answer(429, &[("retry-after", "90")])), end: None };
        let response = keyed(OnUnknown::Hold).render(conclusion, &echo());
        assert_eq!((response.status().as_u16(), shown(&response, &["retry-after"])), (429, vec!["90"]));
        assert_eq!(shown(&response, &FACTS)[..2], ["upstream", "none"]);
    }

    #[test]
    fn what_never_left_is_told_by_its_evidence() {
        let cases = [
            (Some(NotSent::Dns), 502, "upstream-unreachable"),
            (Some(NotSent::ConnectFailed), 502, "upstream-unreachable"),
            (Some(NotSent::NoByteWritten), 502, "upstream-unreachable"),
            (Some(NotSent::ConnectTimeout), 504, "upstream-connect-timeout"),
            (Some(NotSent::RefusedHere), 503, "upstream-unavailable"),
            (None, 504, "deadline-exceeded"),
        ];
        for (end, status, code) in cases {
            let conclusion = Conclusion::NotExecuted { answer: None, end: end.map(AttemptEnd::NotSent) };
            let response = keyed(OnUnknown::Hold).render(conclusion, &echo());
            assert_eq!((response.status().as_u16(), &body(&response)["code"]), (status, &Value::from(code)));
            assert_eq!(shown(&response, &FACTS)[..4], ["gateway", "none", "86400", "\"k\""]);
            assert_eq!(shown(&response, &ADVICE), ["false", "false", ""]);
        }
    }

    #[test]
    fn the_first_caller_of_an_unknown_effect() {
        for (on_unknown, advice) in [
            (OnUnknown::Hold, ["false", "false", ""]),
            (OnUnknown::Retry, ["true", "true", "1"]),
            (OnUnknown::Probe, ["true", "true", "1"]),
        ] {
            let keyed = keyed(on_unknown);
            let shouted = answer(500, &[("x-should-retry", "maybe"), ("semel-effect", "committed")]);
            let response = keyed.render(Conclusion::Unknown { answer: Some(shouted) }, &echo());
            assert_eq!(response.status(), 500);
            assert_eq!(shown(&response, &FACTS)[..2], ["upstream", "unknown"]);
            assert_eq!(shown(&response, &ADVICE), advice, "{on_unknown:?}");

            let response = keyed.render(Conclusion::Unknown { answer: None }, &echo());
            assert_eq!(response.status(), 504);
            assert_eq!(shown(&response, &FACTS)[..4], ["gateway", "unknown", "86400", "\"k\""]);
            assert_eq!(shown(&response, &ADVICE), advice, "{on_unknown:?}");
            assert_eq!(body(&response)["status_link"], "/effects/ef_00000000000000000000000000");
            assert_eq!(body(&response)["code"], "outcome-unknown");
        }
    }

    #[test]
    fn every_refusal_has_its_row() {
        let unsure = ["false", "false", ""];
        for (why, status, code, effect, advice) in [
            (Refused::KeyReused, 422, "key-reused", "none", unsure),
            (Refused::InFlight, 409, "in-flight", "open", ["true", "true", "1"]),
            (Refused::Released, 409, "released", "none", ["true", "true", "1"]),
            (Refused::TooManyWaiters, 409, "too-many-waiters", "open", ["true", "true", "5"]),
            (Refused::Consumed, 409, "consumed", "committed", unsure),
            (Refused::KeyExpired, 409, "key-expired", "committed", unsure),
            (Refused::OutcomeUnknown, 409, "outcome-unknown", "unknown", unsure),
            (Refused::PrincipalUnverified, 409, "principal-unverified", "unknown", unsure),
            (Refused::LedgerUnavailable, 503, "ledger-unavailable", "none", ["true", "true", "5"]),
            (Refused::ClaimsPaused, 503, "disk-reserve", "none", ["true", "true", "30"]),
            (Refused::DeadlineExceeded, 504, "deadline-exceeded", "none", unsure),
        ] {
            let response = keyed(OnUnknown::Hold).render(Conclusion::Refused { why, tombstone: None }, &echo());
            assert_eq!((response.status().as_u16(), &body(&response)["code"]), (status, &Value::from(code)));
            assert_eq!(shown(&response, &FACTS), ["gateway", effect, "86400", "\"k\"", ""], "{why:?}");
            assert_eq!(shown(&response, &ADVICE), advice, "{why:?}");
            assert_eq!(body(&response)["effect_id"], "ef_00000000000000000000000000");
        }
    }

    #[test]
    fn a_consumed_effect_shows_its_status_and_nothing_else() {
        let tombstone = Tombstone { status: StatusCode::CREATED, headers: Default::default(), body_digest: None };
        let conclusion = Conclusion::Refused { why: Refused::Consumed, tombstone: Some(tombstone) };
        let response = keyed(OnUnknown::Hold).render(conclusion, &echo());
        assert_eq!(body(&response)["stored_status"], 201);
    }

    #[test]
    fn an_endless_window_is_not_published() {
        let mut keyed = keyed(OnUnknown::Hold);
        let terms = Terms { keep_ms: FOREVER_MS, ..(*keyed.policy.terms).clone() };
        keyed.policy = Arc::new(EffectPolicy::new(Arc::new(terms)));
        let response = keyed.refuse(&Problem::new(ProblemKind::KeyMissing));
        assert_eq!(shown(&response, &["idempotency-window"]), [""]);
        assert_eq!(response.status(), 400);
    }
}
