//! Health, readiness, metrics, reload.

use std::time::Duration;

use semel_admin::{AdminSettings, ReloadRefused};
use semel_core::code::Code;
use semel_ledger::{Health, LedgerError};
use serde_json::json;

use crate::{gateway::Gateway, ledger::LEASE};

#[tokio::test]
async fn it_lives() {
    let gateway = Gateway::start().await;
    let answer = gateway.get("/healthz").await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "ok\n"));
}

#[tokio::test]
async fn it_is_ready_unless_there_is_a_reason() {
    let gateway = Gateway::start().await;
    let ready = gateway.get("/readyz").await;
    assert_eq!((ready.status(), ready.json), (200, json!({ "ready": true, "ledger": "ready", "reasons": [] })));
    for (health, word) in [
        (Health::ClaimsPaused("the disk has 10 MiB left".to_owned()), "claims-paused"),
        (Health::Unreachable("connection refused".to_owned()), "unreachable"),
        (Health::Stopped("a flush failed".to_owned()), "stopped"),
    ] {
        *gateway.ledger.health.lock().unwrap() = health;
        let unready = gateway.get("/readyz").await;
        assert_eq!((unready.status(), &unready.json["ledger"]), (503, &word.into()));
        assert_eq!(unready.json["reasons"].as_array().unwrap().len(), 1, "{}", unready.json);
    }
    *gateway.ledger.health.lock().unwrap() = Health::Ready;
    gateway.hooks.unready.lock().unwrap().push("draining".to_owned());
    let draining = gateway.get("/readyz").await;
    assert_eq!((draining.status(), &draining.json["reasons"]), (503, &json!(["draining"])));
}

#[tokio::test]
async fn the_ledger_is_measured() {
    let gateway = Gateway::start().await;
    gateway.ledger.open(1).await;
    gateway.ledger.unknown(2).await;
    gateway.ledger.settled(3, b"ok").await;
    let metrics = gateway.get("/metrics").await;
    let kind = metrics.message.header("content-type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    let has = |text: &str, line: &str| assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
    let text = metrics.text();
    has(&text, "semel_ledger_effects{state=\"open\"} 1");
    has(&text, "semel_ledger_effects{state=\"unknown\"} 1");
    has(&text, "semel_ledger_effects_truncated 0");
    has(&text, "semel_ledger_oldest_unknown_seconds 0");
    has(&text, "semel_ledger_health{health=\"ready\"} 1");
    assert!(text.ends_with("# EOF\n"));
    // Counted again only when the count is old, and a lapsed lease makes an effect unknown.
    gateway.ledger.unknown(4).await;
    has(&gateway.get("/metrics").await.text(), "semel_ledger_effects{state=\"unknown\"} 1");
    gateway.clock.advance(LEASE + Duration::from_secs(12));
    *gateway.ledger.health.lock().unwrap() = Health::Stopped("a flush failed".to_owned());
    let text = gateway.get("/metrics").await.text();
    has(&text, "semel_ledger_effects{state=\"open\"} 0");
    has(&text, "semel_ledger_effects{state=\"unknown\"} 3");
    has(&text, "semel_ledger_oldest_unknown_seconds 42");
    has(&text, "semel_ledger_health{health=\"ready\"} 0");
    has(&text, "semel_ledger_health{health=\"stopped\"} 1");
    gateway.clock.advance(Duration::from_secs(6));
    gateway.ledger.fail(Some(LedgerError::Stopped("a flush failed".to_owned())));
    has(&gateway.get("/metrics").await.text(), "semel_ledger_count_failures_total 1");
}

#[tokio::test]
async fn requests_are_counted_by_route_not_by_path() {
    let gateway = Gateway::start().await;
    for path in ["/v1/effects/ef_1", "/v1/effects/ef_2", "/nothing", "/else"] {
        gateway.get(path).await;
    }
    let text = gateway.get("/metrics").await.text();
    for line in [
        "semel_admin_requests_total{route=\"/v1/effects/{id}\",status=\"400\"} 2",
        "semel_admin_requests_total{route=\"none\",status=\"404\"} 2",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_reload_is_the_processes_to_do() {
    let gateway = Gateway::start().await;
    let body = json!({ "reason": "new route" });
    let reloaded = gateway.change("/v1/reload", &body).await;
    assert_eq!((reloaded.status(), &reloaded.json), (200, &json!({ "result": "reloaded", "notes": "1 route" })));
    let refused = ReloadRefused { code: Code::CONTRACT_CHANGED, report: "scope \"pay\": principal changed".to_owned() };
    *gateway.hooks.reload.lock().unwrap() = Err(refused);
    let refused = gateway.change("/v1/reload", &body).await;
    assert_eq!(refused.refusal(), (422, "reload-refused"));
    assert_eq!(refused.json["explained_by"], "SM0012");
    assert!(refused.json["detail"].as_str().unwrap().contains("principal changed"), "{}", refused.json);
    assert_eq!(gateway.change("/v1/reload", &json!({})).await.refusal(), (422, "field-invalid"));
}

#[test]
fn reads_are_open_on_loopback_only() {
    let needs = |address: &str| AdminSettings::at(address.parse().unwrap(), "t".into()).reads_need_token;
    assert!(!needs("127.0.0.1:1") && !needs("[::1]:1"));
    assert!(needs("0.0.0.0:1") && needs("[::]:1") && needs("10.0.0.7:1"));
}
