//! Listing, showing, settling and releasing.

use std::time::Duration;

use semel_core::effect::{AuditKind, Authority, OnUnknown, State};
use semel_ledger::LedgerError;
use serde_json::{Value, json};

use crate::{
    gateway::{Answer, Gateway},
    ledger::{LEASE, STALE, id},
};

fn ids(answer: &Answer) -> Vec<String> {
    let effects = answer.json["effects"].as_array().unwrap();
    effects.iter().map(|effect| effect["effect_id"].as_str().unwrap().to_owned()).collect()
}

fn path(number: u8, verb: &str) -> String {
    format!("/v1/effects/{}/{verb}", id(number))
}

#[tokio::test]
async fn live_effects_are_listed_page_by_page() {
    let gateway = Gateway::start().await;
    gateway.ledger.open(1).await;
    gateway.ledger.unknown(2).await;
    gateway.ledger.settled(3, b"ok").await;
    gateway.ledger.open_in(4, "mails", OnUnknown::Hold).await;
    let all = gateway.get("/v1/effects").await;
    assert_eq!(all.status(), 200);
    assert_eq!(ids(&all), [1, 2, 4].map(|n| id(n).to_string()));
    assert!(all.json.get("next").is_none());
    let first = gateway.get("/v1/effects?limit=2").await;
    assert_eq!(ids(&first), [1, 2].map(|n| id(n).to_string()));
    let next = first.json["next"].as_str().unwrap();
    assert_eq!(ids(&gateway.get(&format!("/v1/effects?limit=2&after={next}")).await), [id(4).to_string()]);
    assert_eq!(ids(&gateway.get("/v1/effects?state=unknown").await), [id(2).to_string()]);
    assert_eq!(ids(&gateway.get("/v1/effects?state=open&scope=mails").await), [id(4).to_string()]);
    assert_eq!(ids(&gateway.get("/v1/effects?scope=nothing").await), Vec::<String>::new());
    // A lease that is over makes it unknown, whether or not somebody wrote that down.
    gateway.clock.advance(LEASE);
    let unknown = gateway.get("/v1/effects?state=unknown").await;
    assert_eq!(ids(&unknown), [1, 2, 4].map(|n| id(n).to_string()));
    assert_eq!(unknown.json["effects"][0]["unknown_reason"], "lease-lapsed");
    assert_eq!(unknown.json["effects"][0]["unknown_since"], "2027-01-15T08:00:30.000Z");
}

#[tokio::test]
async fn a_filtered_page_looks_at_so_many_records_and_goes_on() {
    let gateway = Gateway::start().await;
    gateway.ledger.open_many(10_010).await;
    gateway.ledger.unknown(1).await;
    let page = gateway.get("/v1/effects?state=unknown").await;
    assert_eq!(ids(&page), Vec::<String>::new());
    let next = page.json["next"].as_str().expect("the page ends before the ledger does").to_owned();
    let page = gateway.get(&format!("/v1/effects?state=unknown&after={next}")).await;
    assert_eq!((ids(&page), page.json.get("next")), (vec![id(1).to_string()], None));
    // The count for metrics stops there, too, and says so.
    let metrics = gateway.get("/metrics").await.text();
    for line in ["semel_ledger_effects{state=\"open\"} 10000", "semel_ledger_effects_truncated 1"] {
        assert!(metrics.lines().any(|known| known == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn wrong_queries_and_ids_are_told() {
    let gateway = Gateway::start().await;
    for query in
        ["limit=0", "limit=501", "limit=x", "state=settled", "after=ef_1", "after=", "stat=open", "limit=1&limit=2"]
    {
        let answer = gateway.get(&format!("/v1/effects?{query}")).await;
        assert_eq!(answer.refusal(), (400, "query-invalid"), "{query}: {}", answer.json);
    }
    let answer = gateway.get("/v1/effects?stat=open").await;
    assert!(answer.json["detail"].as_str().unwrap().contains("expected one of `state`"), "{}", answer.json);
    for bad in ["ef_1", "abc", "%ff", "ef_8zzzzzzzzzzzzzzzzzzzzzzzzz"] {
        assert_eq!(gateway.get(&format!("/v1/effects/{bad}")).await.refusal(), (400, "effect-id-malformed"), "{bad}");
    }
    assert_eq!(gateway.get(&format!("/v1/effects/{}", id(9))).await.refusal(), (404, "effect-not-found"));
    assert_eq!(gateway.get("/v1/audit?after=18446744073709551615").await.status(), 200);
    assert_eq!(gateway.get("/v1/audit?after=-1").await.refusal(), (400, "query-invalid"));
}

#[tokio::test]
async fn an_effect_is_shown_in_every_state() {
    let gateway = Gateway::start().await;
    let open = gateway.ledger.open(1).await;
    let shown = gateway.get(&format!("/v1/effects/{}", id(1))).await.json;
    let expected = json!({
        "effect_id": id(1).to_string(),
        "state": "open",
        "fence": open.fence.0,
        "scope": "payments",
        "upstream": "payments",
        "on_unknown": "hold",
        "attempts": 0,
        "was_unknown": false,
        "claimed_at": "2027-01-15T08:00:00.000Z",
        "lease_until": "2027-01-15T08:00:30.000Z",
    });
    assert_eq!(shown, expected);
    gateway.ledger.give_up(&open).await;
    let shown = gateway.get(&format!("/v1/effects/{}", id(1))).await.json;
    assert_eq!(
        (&shown["state"], &shown["unknown_reason"], &shown["attempts"]),
        (&"unknown".into(), &"timeout".into(), &2.into())
    );
    gateway.ledger.settled(2, b"{\"charge\":7}").await;
    let shown = gateway.get(&format!("/v1/effects/{}", id(2))).await;
    assert_eq!(shown.json["settled_by"], json!({ "authority": "owner" }));
    assert_eq!(shown.json["until"], "2027-01-16T08:00:00.000Z");
    let answer = json!({ "status": 201, "headers": [{ "name": "location", "value": "/charges/7" }], "body_bytes": 12 });
    assert_eq!(shown.json["answer"], answer, "no body unless asked for");
    gateway.clock.advance(Duration::from_secs(86_400));
    let shown = gateway.get(&format!("/v1/effects/{}?body=false", id(2))).await.json;
    assert_eq!((&shown["state"], shown.get("answer")), (&"expired".into(), None));
    gateway.clock.advance(Duration::from_secs(7 * 86_400));
    assert_eq!(gateway.get(&format!("/v1/effects/{}", id(2))).await.refusal(), (404, "effect-not-found"));
}

#[tokio::test]
async fn a_body_is_shown_to_the_token_only() {
    let gateway = Gateway::start().await;
    gateway.ledger.settled(1, b"{\"charge\":7}").await;
    gateway.ledger.settled(2, b"\xff\x00").await;
    let shown = |number, query| format!("/v1/effects/{}?body={query}", id(number));
    assert_eq!(gateway.get(&shown(1, "true")).await.refusal(), (401, "token-required"));
    assert_eq!(gateway.get(&shown(1, "maybe")).await.refusal(), (400, "query-invalid"));
    assert_eq!(gateway.get_with_token(&shown(1, "true")).await.json["answer"]["body"], "{\"charge\":7}");
    assert_eq!(gateway.get_with_token(&shown(2, "true")).await.json["answer"]["body_base64"], "/wA=");
}

#[tokio::test]
async fn an_operator_settles_an_unknown_effect_once() {
    let gateway = Gateway::start().await;
    let fence = gateway.ledger.unknown(1).await.fence.0;
    let body = json!({
        "fence": fence,
        "status": 201,
        "headers": [{ "name": "X-Charge", "value": "7" }],
        "body": "paid",
        "reason": "OPS-7: found in the bank's list",
        "operator": "alice",
    });
    let settled = gateway.change(&path(1, "settle"), &body).await;
    assert_eq!((settled.status(), &settled.json["result"]), (200, &"applied".into()));
    let effect = &settled.json["effect"];
    let by = json!({ "authority": "operator", "name": "operator/alice", "reason": "OPS-7: found in the bank's list" });
    assert_eq!((&effect["state"], &effect["settled_by"]), (&"settled".into(), &by));
    let Some(State::Settled { answer, .. }) = gateway.ledger.state(id(1)).await else { panic!("not settled") };
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (201, &b"paid"[..]));
    assert_eq!(answer.headers.get(&"x-charge".parse().unwrap()).unwrap(), "7");
    // Again: harmless. Otherwise: refused, with what stands.
    assert_eq!(gateway.change(&path(1, "settle"), &body).await.json["result"], "unchanged");
    let other = json!({ "fence": fence, "status": 402, "reason": "a mistake" });
    let refused = gateway.change(&path(1, "settle"), &other).await;
    assert_eq!(refused.refusal(), (409, "settled-otherwise"));
    assert_eq!(refused.json["effect"]["answer"]["status"], 201);
    let kinds: Vec<_> = gateway.ledger.audit().await.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [AuditKind::Settled, AuditKind::Contradicted]);
}

#[tokio::test]
async fn an_answer_may_be_binary_consumed_or_empty() {
    let gateway = Gateway::start().await;
    let settle = async |number: u8, with: Value| {
        let fence = gateway.ledger.unknown(number).await.fence.0;
        let mut body = json!({ "fence": fence, "status": 200, "reason": "OPS-7" });
        body.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        let answer = gateway.change(&path(number, "settle"), &body).await;
        assert_eq!(answer.status(), 200, "{}", answer.json);
        gateway.ledger.state(id(number)).await.unwrap()
    };
    let State::Settled { answer, .. } = settle(1, json!({ "body_base64": "/wA=" })).await else { panic!() };
    assert_eq!(&answer.body[..], b"\xff\x00");
    let State::Settled { answer, .. } = settle(2, json!({ "body": null })).await else { panic!() };
    assert!(answer.body.is_empty());
    assert!(matches!(settle(3, json!({ "consumed": true })).await, State::Consumed { .. }));
    // Larger than the route keeps.
    assert!(matches!(settle(4, json!({ "body": "x".repeat(1025) })).await, State::Consumed { .. }));
}

#[tokio::test]
async fn an_operator_releases_an_unknown_effect() {
    let gateway = Gateway::start().await;
    let fence = gateway.ledger.unknown(1).await.fence.0;
    let body = json!({ "fence": fence, "reason": "OPS-8: the bank never saw it" });
    let released = gateway.change(&path(1, "release"), &body).await;
    assert_eq!((released.status(), &released.json), (200, &json!({ "result": "applied" })));
    assert_eq!(gateway.ledger.state(id(1)).await, None);
    assert_eq!(gateway.change(&path(1, "release"), &body).await.refusal(), (404, "effect-not-found"));
    let audit = gateway.get("/v1/audit").await.json;
    let event = json!({
        "number": "1",
        "at": "2027-01-15T08:00:00.000Z",
        "effect_id": id(1).to_string(),
        "fence": fence,
        "kind": "released",
        "by": { "authority": "operator", "name": "operator", "reason": "OPS-8: the bank never saw it" },
        "detail": "",
    });
    assert_eq!(audit, json!({ "events": [event], "next": "1" }));
    assert_eq!(gateway.get("/v1/audit?after=1").await.json, json!({ "events": [], "next": "1" }));
}

#[tokio::test]
async fn a_lapsed_effect_counts_as_unknown() {
    let gateway = Gateway::start().await;
    let fence = gateway.ledger.open(1).await.fence.0;
    gateway.clock.advance(LEASE);
    let released = gateway.change(&path(1, "release"), &json!({ "fence": fence, "reason": "OPS-9" })).await;
    assert_eq!(released.status(), 200, "{}", released.json);
}

#[tokio::test]
async fn what_an_operator_may_not_do_is_refused_with_the_effect_as_it_is() {
    let gateway = Gateway::start().await;
    let open = gateway.ledger.open(1).await.fence.0;
    let settled = gateway.ledger.settled(2, b"ok").await.fence.0;
    gateway.ledger.unknown(3).await;
    let release = |fence: u64| json!({ "fence": fence, "reason": "OPS-7" });
    let settle = |fence: u64| json!({ "fence": fence, "status": 200, "reason": "OPS-7" });
    for (number, verb, body, code, state) in [
        (1, "release", release(open), "state-conflict", "open"),
        (1, "settle", settle(open), "state-conflict", "open"),
        (2, "release", release(settled), "state-conflict", "settled"),
        (2, "settle", settle(settled), "settled-otherwise", "settled"),
        (3, "release", release(STALE.0), "fence-stale", "unknown"),
        (3, "settle", settle(STALE.0), "fence-stale", "unknown"),
    ] {
        let refused = gateway.change(&path(number, verb), &body).await;
        assert_eq!(refused.refusal(), (409, code), "{verb} {state}: {}", refused.json);
        assert_eq!(refused.json["effect"]["state"], state, "{verb}: {}", refused.json);
    }
    assert_eq!(gateway.change(&path(9, "settle"), &settle(1)).await.refusal(), (404, "effect-not-found"));
    assert_eq!(gateway.change(&path(9, "release"), &release(1)).await.refusal(), (404, "effect-not-found"));
}

#[tokio::test]
async fn every_mistake_in_a_change_is_placed() {
    let gateway = Gateway::start().await;
    let fence = gateway.ledger.unknown(1).await.fence.0;
    for (mistake, pointer) in [
        (json!({ "reason": "" }), "/reason"),
        (json!({ "reason": "a\nb" }), "/reason"),
        (json!({ "reason": null }), "/reason"),
        (json!({ "operator": "" }), "/operator"),
        (json!({ "fence": "7" }), "/fence"),
        (json!({ "fence": -1 }), "/fence"),
        (json!({ "status": 99 }), "/status"),
        (json!({ "status": 70_000 }), "/status"),
        (
            json!({ "headers": [{ "name": "etag", "value": "1" }, { "name": "set-cookie", "value": "a=b" }] }),
            "/headers/1/name",
        ),
        (json!({ "headers": [{ "name": "etag" }] }), "/headers/0"),
        (json!({ "body_base64": "?" }), "/body_base64"),
        (json!({ "body": "a", "consumed": true }), ""),
        (json!({ "reasons": "OPS-7" }), "/reasons"),
    ] {
        let mut body = json!({ "fence": fence, "status": 200, "reason": "OPS-7" });
        body.as_object_mut().unwrap().extend(mistake.as_object().unwrap().clone());
        let refused = gateway.change(&path(1, "settle"), &body).await;
        assert_eq!(refused.refusal(), (422, "field-invalid"), "{mistake}: {}", refused.json);
        assert_eq!(refused.json["errors"][0]["pointer"], pointer, "{mistake}: {}", refused.json);
    }
    let missing = gateway.change(&path(1, "release"), &json!({ "fence": fence })).await;
    assert!(missing.json["detail"].as_str().unwrap().contains("missing field `reason`"), "{}", missing.json);
    assert!(matches!(gateway.ledger.state(id(1)).await, Some(State::Unknown { .. })));
    assert!(gateway.ledger.audit().await.is_empty());
}

#[tokio::test]
async fn a_ledger_in_trouble_is_told_as_what_it_is() {
    let gateway = Gateway::start().await;
    let fence = gateway.ledger.unknown(1).await.fence.0;
    let body = json!({ "fence": fence, "reason": "OPS-7" });
    for (error, refusal) in [
        (LedgerError::Unreachable("gone".into()), (503, "ledger-unavailable")),
        (LedgerError::Uncertain("cut off".into()), (503, "ledger-uncertain")),
        (LedgerError::Stopped("EIO".into()), (503, "ledger-stopped")),
        (LedgerError::Damaged { id: id(1), what: "checksum".into() }, (500, "record-damaged")),
    ] {
        gateway.ledger.fail(Some(error));
        assert_eq!(gateway.change(&path(1, "release"), &body).await.refusal(), refusal);
        for path in ["/v1/effects", &format!("/v1/effects/{}", id(1)), "/v1/audit"] {
            assert_eq!(gateway.get(path).await.refusal(), refusal, "{path}");
        }
    }
    gateway.ledger.fail(None);
    assert_eq!(gateway.change(&path(1, "release"), &body).await.status(), 200);
}

#[tokio::test]
async fn a_window_without_end_has_no_end() {
    let gateway = Gateway::start().await;
    gateway.ledger.settled(255, b"ok").await;
    let shown = gateway.get(&format!("/v1/effects/{}", id(255))).await.json;
    assert_eq!((&shown["state"], shown.get("until"), shown.get("marker_until")), (&"settled".into(), None, None));
    let by = gateway.ledger.state(id(255)).await;
    assert!(matches!(by, Some(State::Settled { by: Authority::Owner, .. })));
}
