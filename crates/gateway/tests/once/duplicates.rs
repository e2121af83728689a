//! What a duplicate gets: the first's answer, or word that there is none yet.

use std::sync::Arc;

use semel_tower::{CallResult, Refused};

use crate::support::{Caller, Gate, Gateway, Op, PLAIN, TestLedger, Upstream, config, eventually, post, route};

/// Executes when the gate opens.
fn gated(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |arrival, wire| {
        wire.wait(&gate).answer(201, &[], &format!("done {}", arrival.number));
    })
}

#[test]
fn a_replay_has_status_body_and_allowed_headers() {
    let upstream = Upstream::start(|_, wire| {
        let headers = [
            ("content-type", "application/json"),
            ("content-language", "la"),
            ("location", "/payments/1"),
            ("etag", "\"1\""),
            ("link", "</a>; rel=next"),
            ("x-receipt", "r1"),
            ("x-other", "o1"),
            ("set-cookie", "session=1"),
            ("date", "Thu, 01 Jan 2026 00:00:00 GMT"),
            ("access-control-allow-origin", "https://evil.example"),
            ("proxy-authenticate", "Basic"),
        ];
        wire.answer(202, &headers, r#"{"id":1}"#);
    });
    let gateway = Gateway::once(&upstream, r#"principal = "none", store_headers = ["x-receipt"]"#);
    let first = gateway.call(&post("/pay").key("k"));
    first.said(202, r#"{"id":1}"#, "committed").is_replay(false);
    // The first caller gets what the upstream said.
    assert_eq!((first.header("set-cookie"), first.header("x-other")), (Some("session=1"), Some("o1")));
    let replay = gateway.call(&post("/pay").key("k"));
    replay.said(202, r#"{"id":1}"#, "committed").is_replay(true);
    for kept in ["content-type", "content-language", "location", "etag", "link", "x-receipt"] {
        assert_eq!(replay.header(kept), first.header(kept), "{kept}");
        assert!(replay.header(kept).is_some(), "{kept}");
    }
    for never in ["set-cookie", "x-other", "access-control-allow-origin", "proxy-authenticate"] {
        assert_eq!(replay.header(never), None, "{never}");
    }
    assert_ne!(replay.header("date"), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn an_empty_answer_is_replayed_too() {
    let upstream = Upstream::start(|_, wire| {
        wire.say("HTTP/1.1 204 No Content\r\n\r\n");
    });
    let gateway = Gateway::once(&upstream, PLAIN);
    gateway.call(&post("/pay").key("k")).said(204, "", "committed").is_replay(false);
    gateway.call(&post("/pay").key("k")).said(204, "", "committed").is_replay(true);
}

#[test]
fn final_refusals_are_replayed() {
    let upstream = Upstream::start(|arrival, wire| {
        wire.answer(402, &[], &format!("declined {}", arrival.number));
    });
    let gateway = Gateway::once(&upstream, PLAIN);
    for replay in [false, true] {
        gateway.call(&post("/pay").key("k")).said(402, "declined 0", "committed").is_replay(replay);
    }
}

#[test]
fn a_duplicate_waits_and_shares_the_answer() {
    let gate = Gate::default();
    let upstream = gated(&gate);
    let gateway = Gateway::once(&upstream, PLAIN);
    let mut first = gateway.send(&post("/pay").key("k"));
    upstream.wait_for(1);
    let mut others: Vec<_> = (0..10).map(|_| gateway.send(&post("/pay").key("k"))).collect();
    eventually("all met the first", || gateway.ledger.asked(Op::LookUp) >= 11);
    gate.open();
    first.answer().said(201, "done 0", "committed").is_replay(false);
    for other in &mut others {
        other.answer().said(201, "done 0", "committed").is_replay(true);
    }
    assert_eq!(upstream.count(), 1);
    assert_eq!(gateway.results.all().iter().filter(|(result, _)| *result == CallResult::Joined).count(), 10);
}

#[test]
fn a_crowd_on_one_key_executes_once_over_two_gateways() {
    let upstream = Upstream::executing();
    let ledger = TestLedger::new();
    let file = config(upstream.address, &route("POST /pay", "once", &format!("idempotency = {{ {PLAIN} }}")));
    let gateways = [Gateway::over(Arc::clone(&ledger), &file), Gateway::over(Arc::clone(&ledger), &file)];
    for round in 0..5 {
        let call = post("/pay").key(&format!("k{round}"));
        let mut callers: Vec<_> = (0..32).map(|n| gateways[n % 2].send(&call)).collect();
        let answers: Vec<_> = callers.iter_mut().map(Caller::answer).collect();
        for answer in &answers {
            answer.said(201, &format!("done {round}"), "committed");
        }
        let fresh = answers.iter().filter(|answer| answer.header("idempotent-replayed").is_none()).count();
        assert_eq!(fresh, 1);
    }
    assert_eq!(upstream.count(), 5);
}

#[test]
fn an_effect_in_flight_is_told_when_waiting_is_over() {
    let gate = Gate::default();
    let upstream = gated(&gate);
    let gateway = Gateway::once(&upstream, r#"principal = "none", join = "0s""#);
    let mut first = gateway.send(&post("/pay").key("k"));
    upstream.wait_for(1);
    let answer = gateway.call(&post("/pay").key("k"));
    answer.refused(409, "in-flight");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("semel-effect"), Some("open"));
    assert_eq!((answer.header("x-should-retry"), answer.header("stripe-should-retry")), (Some("true"), Some("true")));
    gate.open();
    first.answer().said(201, "done 0", "committed");
}

#[test]
fn nobody_waits_longer_than_the_own_deadline() {
    let gate = Gate::default();
    let upstream = gated(&gate);
    let gateway = Gateway::once(&upstream, r#"principal = "none", join = "1h""#);
    let mut first = gateway.send(&post("/pay").key("k"));
    upstream.wait_for(1);
    gateway.call(&post("/pay").key("k").header("semel-timeout", "50")).refused(409, "in-flight");
    gate.open();
    first.answer().said(201, "done 0", "committed");
}

#[test]
fn another_request_is_refused_at_once_also_while_the_first_is_open() {
    let gate = Gate::default();
    let upstream = gated(&gate);
    let gateway = Gateway::once(&upstream, r#"principal = "none", join = "1h""#);
    let mut first = gateway.send(&post("/pay").key("k"));
    upstream.wait_for(1);
    gateway.call(&post("/pay").key("k").body("{}")).refused(422, "key-reused");
    gate.open();
    first.answer().said(201, "done 0", "committed");
}

#[test]
fn those_who_wait_are_bounded() {
    let gate = Gate::default();
    let upstream = gated(&gate);
    let gateway = Gateway::once(&upstream, r#"principal = "none", waiters = 2"#);
    let mut first = gateway.send(&post("/pay").key("k"));
    upstream.wait_for(1);
    let mut others: Vec<_> = (0..5).map(|_| gateway.send(&post("/pay").key("k"))).collect();
    let refused = |gateway: &Gateway| {
        let too_many = CallResult::Refused(Refused::TooManyWaiters);
        gateway.results.all().iter().filter(|(result, _)| *result == too_many).count()
    };
    eventually("three are too many", || refused(&gateway) == 3);
    gate.open();
    first.answer().said(201, "done 0", "committed");
    let answers: Vec<_> = others.iter_mut().map(Caller::answer).collect();
    assert_eq!(answers.iter().filter(|answer| answer.status() == 201).count(), 2);
    let told = answers.iter().find(|answer| answer.status() != 201).unwrap();
    told.refused(409, "too-many-waiters");
    assert_eq!(told.header("x-should-retry"), Some("true"));
}

#[test]
fn those_who_wait_are_never_promoted() {
    let gate = Gate::default();
    let shut = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.wait(&shut).answer(429, &[], "slow down");
    });
    let gateway = Gateway::route(&upstream, "retry = { attempts = 1 }\nidempotency = { principal = \"none\" }");
    let mut first = gateway.send(&post("/pay").key("k"));
    upstream.wait_for(1);
    let mut others: Vec<_> = (0..3).map(|_| gateway.send(&post("/pay").key("k"))).collect();
    eventually("all met the first", || gateway.ledger.asked(Op::LookUp) >= 4);
    gate.open();
    first.answer().said(429, "slow down", "none");
    for other in &mut others {
        let answer = other.answer();
        answer.refused(409, "released");
        assert_eq!((answer.header("semel-effect"), answer.header("x-should-retry")), (Some("none"), Some("true")));
    }
    assert_eq!(upstream.count(), 1);
}
