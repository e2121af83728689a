//! Whose key it is, and who may see the answer.

use crate::support::{Call, Gateway, TestLedger, Upstream, config, post, route};

fn jwt(claims: &str, signature: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in claims.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digits = (0..=chunk.len()).map(|i| DIGITS[(bits >> (18 - 6 * i)) as usize & 63] as char);
        text.extend(digits);
    }
    format!("Bearer eyJhbGciOiJSUzI1NiJ9.{text}.{signature}")
}

fn by(credential: &str) -> Call {
    post("/pay").key("k").header("authorization", credential)
}

#[test]
fn without_a_credential_nobody_is_known() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, "");
    let answer = gateway.call(&post("/pay").key("k"));
    answer.refused(401, "principal-required");
    assert!(answer.header("www-authenticate").is_some());
    gateway.call(&by("Bearer a").header("authorization", "Bearer b")).refused(401, "principal-required");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn two_credentials_never_meet() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, "");
    gateway.call(&by("Bearer ann")).said(201, "done 0", "committed");
    gateway.call(&by("Bearer bob")).said(201, "done 1", "committed").is_replay(false);
    gateway.call(&by("Bearer ann")).said(201, "done 0", "committed").is_replay(true);
    let arrivals = upstream.arrivals();
    assert_ne!(arrivals[0].key(), arrivals[1].key());
    assert_eq!(arrivals[1].header("authorization"), Some("Bearer bob"));
}

#[test]
fn a_refreshed_token_neither_runs_again_nor_sees_the_answer() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, "");
    let token = |signature: &str| by(&jwt(r#"{"iss":"id.example","sub":"ann","exp":1}"#, signature));
    gateway.call(&token("one")).said(201, "done 0", "committed");
    let answer = gateway.call(&token("two"));
    answer.refused(409, "principal-unverified");
    assert!(!format!("{answer:?}").contains("done 0"));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    // Nor does it learn whether the request would have been the same.
    gateway.call(&token("two").body("{}")).refused(409, "principal-unverified");
    gateway.call(&token("one")).said(201, "done 0", "committed").is_replay(true);
    gateway.call(&by(&jwt(r#"{"iss":"id.example","sub":"bob"}"#, "one"))).said(201, "done 1", "committed");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn only_a_trusted_peer_names_the_caller() {
    let upstream = Upstream::executing();
    let values = "idempotency = { principal = \"header:x-user\" }";
    let file = |proxies: &str| {
        let trusted = format!("trusted_proxies = [\"{proxies}\"]\n");
        config(upstream.address, &format!("{trusted}{}", route("POST /pay", "once", values)))
    };
    let ann = post("/pay").key("k").header("x-user", "ann");
    let stranger = Gateway::over(TestLedger::new(), &file("10.0.0.0/8"));
    stranger.call(&ann).refused(401, "principal-required");
    assert_eq!(upstream.count(), 0);
    let trusted = Gateway::over(TestLedger::new(), &file("127.0.0.1/32"));
    trusted.call(&post("/pay").key("k")).refused(401, "principal-required");
    trusted.call(&ann).said(201, "done 0", "committed");
    trusted.call(&ann).said(201, "done 0", "committed").is_replay(true);
    trusted.call(&post("/pay").key("k").header("x-user", "bob")).said(201, "done 1", "committed");
}
