//! Upstreams that settle their own effects.

use semel_core::{
    effect::{AuditKind, Authority, OnUnknown, Record, State},
    scope::LookupSecret,
};
use serde_json::{Value, json};

use crate::{
    gateway::Gateway,
    ledger::{LEASE, id},
};

fn committed() -> Value {
    let headers = [("X-Charge", "7"), ("Date", "Fri, 15 Jan 2027 08:00:00 GMT"), ("Set-Cookie", "a=b")];
    let headers: Vec<_> = headers.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    json!({ "effect": "committed", "status": 201, "headers": headers, "body": "paid" })
}

fn token(gateway: &Gateway, record: &Record) -> String {
    gateway.secret().settlement_token(record.id, record.fence.0).as_str().to_owned()
}

#[tokio::test]
async fn an_upstream_settles_what_is_unknown() {
    let gateway = Gateway::start().await;
    let record = gateway.ledger.unknown(1).await;
    let (effect, token) = (record.id.to_string(), token(&gateway, &record));
    let settled = gateway.outcome(&effect, &token, &committed()).await;
    assert_eq!(settled.status(), 200, "{}", settled.json);
    assert_eq!(settled.json, json!({ "result": "applied", "effect_id": effect, "state": "settled" }));
    let Some(State::Settled { answer, by, .. }) = gateway.ledger.state(id(1)).await else { panic!("not settled") };
    assert_eq!((by, &answer.body[..]), (Authority::Upstream, &b"paid"[..]));
    // Only what the route keeps.
    let names: Vec<_> = answer.headers.iter().map(|(name, _)| name.as_str().to_owned()).collect();
    assert_eq!(names, ["x-charge"]);
    assert_eq!(gateway.outcome(&effect, &token, &committed()).await.json["result"], "unchanged");
    let audit = gateway.ledger.audit().await;
    assert_eq!((audit.len(), audit[0].kind, &audit[0].by), (1, AuditKind::Settled, &Authority::Upstream));
}

#[tokio::test]
async fn an_upstream_settles_what_is_open_or_lapsed() {
    let gateway = Gateway::start().await;
    let (open, lapsed) = (gateway.ledger.open(1).await, gateway.ledger.open(2).await);
    let consumed = json!({ "effect": "committed", "status": 202, "consumed": true });
    let settled = gateway.outcome(&id(1).to_string(), &token(&gateway, &open), &consumed).await;
    assert_eq!(settled.json["state"], "consumed", "{}", settled.json);
    gateway.clock.advance(LEASE);
    let settled = gateway.outcome(&id(2).to_string(), &token(&gateway, &lapsed), &committed()).await;
    assert_eq!(settled.json["state"], "settled", "{}", settled.json);
}

#[tokio::test]
async fn only_the_effects_own_token_is_taken() {
    let gateway = Gateway::start().await;
    let (one, other) = (gateway.ledger.unknown(1).await, gateway.ledger.unknown(2).await);
    let own = token(&gateway, &one);
    let elsewhere = LookupSecret::from_bytes([8; 32]).settlement_token(one.id, one.fence.0);
    let (_, mac) = own.split_once('.').unwrap();
    let later = format!("{}.{mac}", one.fence.0 + 1);
    for forged in ["x", "", ".", &later, mac, &token(&gateway, &other), elsewhere.as_str(), &own[..own.len() - 1]] {
        let refused = gateway.outcome(&id(1).to_string(), forged, &committed()).await;
        assert_eq!(refused.refusal(), (401, "settlement-token-wrong"), "{forged}");
        assert_eq!(refused.message.header("www-authenticate"), Some("Semel-Settlement"));
    }
    let path = format!("/v1/effects/{}/outcome", id(1));
    // The admin token is not a settlement token.
    assert_eq!(gateway.change(&path, &committed()).await.refusal(), (401, "settlement-token-required"));
    let twice = [
        ("Host", "localhost"),
        ("Content-Type", "application/json"),
        ("Semel-Settlement", &own),
        ("Semel-Settlement", &own),
    ];
    assert_eq!(gateway.send("POST", &path, &twice, b"{}").await.refusal(), (401, "settlement-token-required"));
    let form = [("Host", "localhost"), ("Content-Type", "text/plain"), ("Semel-Settlement", &own)];
    assert_eq!(gateway.send("POST", &path, &form, b"{}").await.refusal(), (415, "content-type-wrong"));
    assert!(matches!(gateway.ledger.state(id(1)).await, Some(State::Unknown { .. })));
    assert!(gateway.ledger.audit().await.is_empty(), "a forged token leaves no trace in the ledger");
}

#[tokio::test]
async fn a_token_of_an_older_claim_is_genuine_but_late() {
    let gateway = Gateway::start().await;
    let first = gateway.ledger.open_in(1, "payments", OnUnknown::Retry).await;
    gateway.ledger.give_up(&first).await;
    let second = gateway.ledger.reopen(&first).await;
    let late = gateway.outcome(&id(1).to_string(), &token(&gateway, &first), &committed()).await;
    assert_eq!(late.refusal(), (409, "fence-stale"));
    let audit = gateway.ledger.audit().await;
    assert_eq!((audit.len(), audit[0].kind, audit[0].fence), (1, AuditKind::Fenced, first.fence));
    let settled = gateway.outcome(&id(1).to_string(), &token(&gateway, &second), &committed()).await;
    assert_eq!(settled.status(), 200, "{}", settled.json);
}

#[tokio::test]
async fn an_upstream_cannot_contradict_release_or_revive() {
    let gateway = Gateway::start().await;
    let settled = gateway.ledger.settled(1, b"ok").await;
    let otherwise = gateway.outcome(&id(1).to_string(), &token(&gateway, &settled), &committed()).await;
    assert_eq!(otherwise.refusal(), (409, "settled-otherwise"));
    assert_eq!(gateway.ledger.audit().await[0].kind, AuditKind::Contradicted);
    let unknown = gateway.ledger.unknown(2).await;
    let (effect, token) = (id(2).to_string(), token(&gateway, &unknown));
    for word in ["none", "unknown", "open"] {
        let refused = gateway.outcome(&effect, &token, &json!({ "effect": word, "status": 200 })).await;
        assert_eq!(refused.refusal(), (422, "field-invalid"), "{word}");
        assert_eq!(refused.json["errors"][0]["pointer"], "/effect");
    }
    let release = json!({ "fence": unknown.fence.0, "reason": "OPS-8" });
    assert_eq!(gateway.change(&format!("/v1/effects/{effect}/release"), &release).await.status(), 200);
    let gone = gateway.outcome(&effect, &token, &committed()).await;
    assert_eq!(gone.refusal(), (404, "effect-not-found"));
    // Somebody must learn that what was released had happened.
    let audit = gateway.ledger.audit().await;
    let last = audit.last().unwrap();
    assert_eq!((last.kind, last.id, &last.by), (AuditKind::Contradicted, Some(id(2)), &Authority::Upstream));
    assert!(last.detail.contains("the effect is absent"), "{}", last.detail);
}

#[tokio::test]
async fn refused_settlements_of_one_effect_are_bounded() {
    let gateway = Gateway::start().await;
    let settled = gateway.ledger.settled(1, b"ok").await;
    let other = gateway.ledger.unknown(2).await;
    let (effect, own) = (id(1).to_string(), token(&gateway, &settled));
    for _ in 0..8 {
        assert_eq!(gateway.outcome(&effect, &own, &committed()).await.status(), 409);
    }
    let refused = gateway.outcome(&effect, &own, &committed()).await;
    assert_eq!(refused.refusal(), (429, "too-many-requests"));
    assert_eq!(refused.message.header("retry-after"), Some("1"));
    assert_eq!(gateway.ledger.audit().await.len(), 8, "nor is the audit log written any more");
    assert_eq!(gateway.outcome(&id(2).to_string(), &token(&gateway, &other), &committed()).await.status(), 200);
}

#[tokio::test]
async fn settlements_at_a_time_are_bounded() {
    let gateway = Gateway::start_with(|settings| settings.outcomes_max = 0).await;
    let record = gateway.ledger.unknown(1).await;
    let refused = gateway.outcome(&id(1).to_string(), &token(&gateway, &record), &committed()).await;
    assert_eq!(refused.refusal(), (429, "too-many-requests"));
}
