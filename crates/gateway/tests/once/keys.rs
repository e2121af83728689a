//! Which effect a request means.

use crate::support::{Call, Gateway, PLAIN, Upstream, post, route};

#[test]
fn a_missing_key_is_refused_before_anything_is_sent() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, PLAIN);
    let answer = gateway.call(&post("/pay"));
    answer.refused(400, "key-missing");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn malformed_keys_are_refused() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, PLAIN);
    for key in ["", "a b", "\"\"", "caf\u{e9}", &"k".repeat(256)] {
        gateway.call(&post("/pay").key(key)).refused(400, "key-malformed");
    }
    gateway.call(&post("/pay").key("a").key("a")).refused(400, "key-malformed");
    assert_eq!(upstream.count(), 0);
    gateway.call(&post("/pay").key(&"k".repeat(255))).said(201, "done 0", "committed");
}

#[test]
fn quoted_and_bare_are_one_key() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, PLAIN);
    let bare = gateway.call(&post("/pay").key("abc"));
    bare.said(201, "done 0", "committed").is_replay(false);
    let quoted = gateway.call(&post("/pay").key("\"abc\""));
    quoted.said(201, "done 0", "committed").is_replay(true);
    assert_eq!((bare.header("idempotency-key"), quoted.header("idempotency-key")), (Some("abc"), Some("\"abc\"")));
    assert_eq!(bare.header("semel-effect-id"), quoted.header("semel-effect-id"));
}

#[test]
fn a_key_may_stand_in_the_body() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, r#"principal = "none", key = "json:/order/id""#);
    let order = |id: &str| post("/pay").body(&format!(r#"{{"order":{{"id":{id}}}}}"#));
    gateway.call(&order("7")).said(201, "done 0", "committed").is_replay(false);
    gateway.call(&order("7")).said(201, "done 0", "committed").is_replay(true);
    gateway.call(&order("8")).said(201, "done 1", "committed").is_replay(false);
    gateway.call(&post("/pay").body("{}")).refused(400, "key-missing");
    // The upstream can have a key although the caller sent none in a header.
    let arrivals = upstream.arrivals();
    assert_ne!(arrivals[0].key(), arrivals[1].key());
}

#[test]
fn a_key_may_stand_in_the_path() {
    let upstream = Upstream::executing();
    let values = r#"idempotency = { principal = "none", key = "path:order" }"#;
    let gateway = Gateway::of(upstream.address, &route("POST /orders/{order}/pay", "once", values));
    gateway.call(&post("/orders/7/pay")).said(201, "done 0", "committed");
    let again = gateway.call(&post("/orders/7/pay"));
    again.said(201, "done 0", "committed").is_replay(true);
    gateway.call(&post("/orders/8/pay")).said(201, "done 1", "committed");
    // A natural key is kept without end, and no number says so.
    assert_eq!((again.header("idempotency-window"), again.header("idempotency-key")), (None, None));
}

#[test]
fn a_key_may_be_joined_from_parts() {
    let upstream = Upstream::executing();
    let values = r#"principal = "none", key = ["header:x-user", "json:/kind"]"#;
    let gateway = Gateway::once(&upstream, values);
    let mail = |user: &str, kind: &str| {
        gateway.call(&post("/pay").header("x-user", user).body(&format!(r#"{{"kind":"{kind}"}}"#)))
    };
    mail("ann", "welcome").said(201, "done 0", "committed");
    mail("ann", "welcome").said(201, "done 0", "committed").is_replay(true);
    mail("bob", "welcome").said(201, "done 1", "committed");
    mail("ann", "goodbye").said(201, "done 2", "committed");
    // Half a key is none.
    gateway.call(&post("/pay").body(r#"{"kind":"welcome"}"#)).refused(400, "key-missing");
}

#[test]
fn another_request_with_the_same_key_is_refused_and_shown_nothing() {
    let upstream = Upstream::start(|_, wire| {
        wire.answer(201, &[("location", "/secret")], "secret");
    });
    let gateway = Gateway::once(&upstream, PLAIN);
    gateway.call(&post("/pay").key("k")).said(201, "secret", "committed");
    let others = [
        post("/pay").key("k").body(r#"{"amount":11}"#),
        Call::new("POST", "/pay").key("k").header("content-type", "text/plain").body(r#"{"amount":10}"#),
        Call::new("POST", "/pay?x=1").key("k").header("content-type", "application/json").body(r#"{"amount":10}"#),
        post("/pay").key("k").header("if-match", "\"1\""),
    ];
    for other in others {
        let answer = gateway.call(&other);
        answer.refused(422, "key-reused");
        assert!(!format!("{answer:?}").contains("secret"), "{answer:?}");
    }
    // The same JSON in another spelling is the same request.
    gateway.call(&post("/pay").key("k").body("{ \"amount\": 1e1 }")).said(201, "secret", "committed").is_replay(true);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn the_same_path_in_another_spelling_is_the_same_effect() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, PLAIN);
    gateway.call(&post("/pay").key("k")).said(201, "done 0", "committed");
    gateway.call(&post("/%70ay").key("k")).said(201, "done 0", "committed").is_replay(true);
}
