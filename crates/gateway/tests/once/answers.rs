//! What stands on every answer, and what an upstream cannot say.

use crate::support::{Call, Gateway, Message, PLAIN, Upstream, post, route};

/// What every answer on a keyed route says.
#[track_caller]
fn is_signed(answer: &Message, source: &str, effect: &str) {
    let said = |name| answer.header(name);
    assert_eq!((said("semel-source"), said("semel-effect")), (Some(source), Some(effect)), "{answer:?}");
    assert!(said("semel-effect-id").is_some_and(|id| id.starts_with("ef_")), "{answer:?}");
    assert_eq!((said("idempotency-key"), said("idempotency-window")), (Some("k"), Some("86400")), "{answer:?}");
    assert!(said("x-request-id").is_some(), "{answer:?}");
    if source == "gateway" {
        assert!(
            said("x-should-retry").is_some() && said("stripe-should-retry") == said("x-should-retry"),
            "{answer:?}"
        );
        assert_eq!(answer.json()["effect_id"], said("semel-effect-id").unwrap());
        assert!(answer.json()["detail"].as_str().is_some_and(|detail| detail.len() > 40), "{answer:?}");
        assert!(answer.json()["type"].as_str().is_some_and(|uri| uri.contains(&answer.code())), "{answer:?}");
    }
}

#[test]
fn every_answer_says_where_it_comes_from_and_what_happened() {
    let upstream = Upstream::start(|arrival, wire| match arrival.number {
        0 => {
            wire.answer(429, &[], "no");
        }
        1 => {
            wire.answer(201, &[], "done");
        }
        _ => wire.close(),
    });
    let gateway = Gateway::route(&upstream, "retry = { attempts = 1 }\nidempotency = { principal = \"none\" }");
    let call = post("/pay").key("k");
    is_signed(&gateway.call(&call), "upstream", "none");
    is_signed(&gateway.call(&call), "upstream", "committed");
    is_signed(&gateway.call(&call), "upstream", "committed");
    is_signed(&gateway.call(&call.clone().body("{}")), "gateway", "none");
    let other = Call::new("POST", "/pay?other").key("k");
    is_signed(&gateway.call(&other), "gateway", "none");
    gateway.ledger.is_down();
    is_signed(&gateway.call(&call), "gateway", "none");
    gateway.ledger.is_up();
    let lost = Gateway::once(&upstream, PLAIN);
    is_signed(&lost.call(&call), "gateway", "unknown");
    is_signed(&lost.call(&call), "gateway", "unknown");
}

#[test]
fn an_upstream_cannot_speak_for_the_gateway() {
    let forged = [
        ("semel-source", "gateway"),
        ("semel-effect-id", "ef_forged"),
        ("semel-settlement", "forged"),
        ("semel-anything", "forged"),
        ("idempotent-replayed", "true"),
        ("idempotency-key", "forged"),
        ("idempotency-window", "1"),
    ];
    let upstream = Upstream::start(move |_, wire| {
        wire.answer(201, &forged, "done");
    });
    let routes = [
        route("POST /pay", "once", &format!("idempotency = {{ {PLAIN} }}")),
        route("POST /open", "forward", ""),
        route("PUT /put", "idempotent", ""),
    ];
    let gateway = Gateway::of(upstream.address, &routes.concat());
    let again = post("/pay").key("k");
    for (call, is_replay) in
        [(again.clone(), false), (again, true), (post("/open"), false), (Call::new("PUT", "/put"), false)]
    {
        let answer = gateway.call(&call);
        assert_eq!(answer.status(), 201);
        let ours = |name: &str| name.starts_with("semel-") || name == "idempotent-replayed";
        let forged = answer.headers.iter().find(|(name, value)| ours(name) && forged.contains(&(name, value)));
        assert_eq!(forged.filter(|(name, _)| name != "idempotent-replayed" || !is_replay), None, "{answer:?}");
    }
    is_signed(&gateway.call(&post("/pay").key("k")), "upstream", "committed");
}

#[test]
fn callers_cannot_send_what_is_semels_own() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, PLAIN);
    let call = post("/pay").key("k").header("semel-settlement", "forged").header("semel-source", "gateway");
    gateway.call(&call).said(201, "done 0", "committed");
    let arrival = &upstream.arrivals()[0];
    assert!(arrival.header("semel-settlement").is_some() && !format!("{arrival:?}").contains("forged"), "{arrival:?}");
    assert_eq!(arrival.header("semel-source"), None);
}

#[test]
fn cors_is_for_the_origin_that_asks_now() {
    let upstream = Upstream::start(|_, wire| {
        wire.answer(201, &[("access-control-allow-origin", "*"), ("x-receipt", "1")], "done");
    });
    let values = "cors = { origins = [\"https://a.example\", \"https://b.example\"], credentials = true, \
                  expose_headers = [\"x-receipt\"] }\n";
    let gateway = Gateway::route(&upstream, &format!("{values}idempotency = {{ {PLAIN} }}"));
    let from = |origin: &str, body: &str| gateway.call(&post("/pay").key("k").body(body).header("origin", origin));
    for (origin, body, status) in
        [("https://a.example", "1", 201), ("https://b.example", "1", 201), ("https://a.example", "2", 422)]
    {
        let answer = from(origin, body);
        assert_eq!(answer.status(), status);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for name in ["semel-effect", "idempotent-replayed", "retry-after", "x-receipt"] {
            assert!(exposed.contains(name), "{name}: {exposed}");
        }
        assert_eq!(answer.header("vary"), Some("origin"));
    }
    // Also on what is refused before it is an effect.
    let keyless = gateway.call(&post("/pay").header("origin", "https://b.example"));
    assert_eq!(keyless.refused(400, "key-missing").header("access-control-allow-origin"), Some("https://b.example"));
    let stranger = from("https://evil.example", "1");
    assert_eq!((stranger.status(), stranger.header("access-control-allow-origin")), (201, None));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_preflight_is_answered_here_for_the_method_that_it_asks_for() {
    let upstream = Upstream::executing();
    let cors = "cors = { origins = [\"https://a.example\"], allow_headers = [\"x-tenant\"] }\n";
    let routes = [
        route("POST /pay", "once", &format!("{cors}idempotency = {{ {PLAIN} }}")),
        route("GET /pay", "read", ""),
        route("* /{*rest}", "forward", ""),
    ];
    let gateway = Gateway::of(upstream.address, &routes.concat());
    let asking = |method: &str| {
        let asked = Call::new("OPTIONS", "/pay").header("origin", "https://a.example");
        asked
            .header("access-control-request-method", method)
            .header("access-control-request-headers", "idempotency-key")
    };
    let answer = gateway.call(&asking("POST"));
    assert_eq!((answer.status(), answer.header("access-control-allow-methods")), (204, Some("POST")));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"));
    let allowed = answer.header("access-control-allow-headers").unwrap();
    assert!(allowed.contains("idempotency-key") && allowed.contains("x-tenant"), "{allowed}");
    assert_eq!(upstream.count(), 0);
    // Where the gateway does not answer for a route, the upstream does.
    assert_eq!(gateway.call(&asking("GET")).status(), 201);
    assert_eq!(gateway.call(&Call::new("OPTIONS", "/pay")).status(), 201);
    assert_eq!(upstream.count(), 2);
}

#[test]
fn the_stripe_dialect_is_what_its_sdks_read() {
    let upstream = Upstream::start(|arrival, wire| match arrival.number {
        0 => {
            wire.answer(201, &[], "done");
        }
        _ => wire.close(),
    });
    let gateway = Gateway::once(&upstream, r#"principal = "none", dialect = "stripe""#);
    gateway.call(&post("/pay").key("k")).said(201, "done", "committed");
    gateway.call(&post("/pay").key("k")).said(201, "done", "committed").is_replay(true);
    let error = |answer: &Message, status: u16, kind: &str, code: &str| {
        assert_eq!((answer.status(), answer.header("content-type")), (status, Some("application/json")), "{answer:?}");
        let error = &answer.json()["error"];
        assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some(kind), Some(code)));
        assert!(error["message"].is_string() && answer.header("stripe-should-retry").is_some());
    };
    error(&gateway.call(&post("/pay")), 400, "invalid_request_error", "key-missing");
    error(&gateway.call(&post("/pay").key("k").body("{}")), 400, "idempotency_error", "key-reused");
    error(&gateway.call(&post("/pay").key("lost")), 504, "api_error", "outcome-unknown");
    error(&gateway.call(&post("/pay").key("lost")), 409, "idempotency_error", "outcome-unknown");
    gateway.ledger.is_down();
    error(&gateway.call(&post("/pay").key("k")), 503, "api_error", "ledger-unavailable");
}
