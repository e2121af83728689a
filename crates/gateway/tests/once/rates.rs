//! Callers that ask too often.

use crate::support::{Gateway, Upstream, post, route};

const RATE: &str = r#"
idempotency = { principal = "none" }
rate = [
    { limit = "2/h", by = "header:x-tenant" },
    { limit = "3/h", by = "everyone" },
]"#;

#[test]
fn a_caller_over_its_limit_is_refused_before_anything_is_claimed() {
    let upstream = Upstream::executing();
    let gateway = Gateway::route(&upstream, RATE);
    let pay = |tenant: &str, key: &str| gateway.call(&post("/pay").key(key).header("x-tenant", tenant));
    let first = pay("a", "k1");
    assert_eq!(first.status(), 201);
    assert_eq!(first.header("ratelimit-policy"), Some(r#""header:x-tenant";q=2;w=3600, "everyone";q=3;w=3600"#));
    assert!(first.header("ratelimit").unwrap().starts_with(r#""header:x-tenant";r=1;"#), "{first:?}");
    assert_eq!(pay("a", "k2").status(), 201);
    let refused = pay("a", "k3");
    refused.refused(429, "quota-exceeded");
    assert_eq!(refused.header("semel-effect"), Some("none"));
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1790);
    assert_eq!(gateway.effects.in_flight(), 0);
    // The refusal took nothing from what all have together, and another tenant has its own.
    assert_eq!(pay("b", "k4").status(), 201);
    pay("b", "k5").refused(429, "quota-exceeded");
    assert_eq!(upstream.count(), 3);
}

#[test]
fn callers_are_told_apart_by_their_credentials() {
    let upstream = Upstream::executing();
    let gateway = Gateway::of(upstream.address, &route("POST /pass", "forward", r#"rate = { limit = "1/h" }"#));
    let call = |credential: Option<&str>| {
        let call = post("/pass");
        gateway.call(&credential.map_or(call.clone(), |credential| call.header("authorization", credential))).status()
    };
    assert_eq!((call(Some("Bearer a")), call(Some("Bearer b")), call(None)), (201, 201, 201));
    assert_eq!((call(Some("Bearer a")), call(Some("Bearer b")), call(None)), (429, 429, 429));
    assert_eq!(upstream.count(), 3);
}

#[test]
fn a_window_has_no_edge_at_which_twice_as_many_pass() {
    let upstream = Upstream::executing();
    let values = r#"rate = { limit = "5/h", window = true, by = "address" }"#;
    let gateway = Gateway::of(upstream.address, &route("POST /pass", "forward", values));
    let passed = (0..20).filter(|_| gateway.call(&post("/pass")).status() == 201).count();
    assert_eq!(passed, 5);
}
