//! Turned away before anything happened: the key stays usable.

use std::time::Duration;

use semel_ledger::LedgerError;

use crate::support::{Fate, Gateway, Op, PLAIN, Upstream, post};

#[test]
fn a_body_over_the_cap_is_refused_before_the_claim() {
    let upstream = Upstream::executing();
    let gateway =
        Gateway::route(&upstream, "body = { request_cap = \"1KiB\" }\nidempotency = { principal = \"none\" }");
    let answer = gateway.call(&post("/pay").key("k").body(&"x".repeat(2000)));
    answer.refused(413, "body-too-large");
    assert_eq!(answer.header("semel-effect"), Some("none"));
    assert_eq!((gateway.ledger.asked(Op::LookUp), gateway.ledger.asked(Op::Claim)), (0, 0));
    gateway.call(&post("/pay").key("k").body(&"x".repeat(1024))).said(201, "done 0", "committed");
}

#[test]
fn a_deadline_that_is_over_sends_nothing() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, PLAIN);
    let answer = gateway.call(&post("/pay").key("k").header("semel-timeout", "0"));
    answer.refused(504, "deadline-exceeded");
    assert_eq!((answer.header("semel-effect"), answer.header("x-should-retry")), (Some("none"), Some("false")));
    assert_eq!(upstream.count(), 0);
    gateway.call(&post("/pay").key("k")).said(201, "done 0", "committed");
}

#[test]
fn a_deadline_that_cannot_be_read_is_refused() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, PLAIN);
    gateway.call(&post("/pay").key("k").header("semel-timeout", "soon")).refused(400, "request-malformed");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn an_upstream_that_cannot_be_reached_leaves_the_key_usable() {
    let mut upstream = Upstream::refusing(|_, wire| {
        wire.answer(201, &[], "done");
    });
    let gateway = Gateway::once(&upstream, PLAIN);
    let answer = gateway.call(&post("/pay").key("k").header("semel-timeout", "100"));
    answer.refused(502, "upstream-unreachable");
    assert_eq!(answer.header("semel-effect"), Some("none"));
    assert!(gateway.live().is_empty());
    upstream.listen();
    gateway.call(&post("/pay").key("k")).said(201, "done", "committed").is_replay(false);
}

#[test]
fn what_the_upstream_surely_did_not_do_leaves_the_key_usable() {
    for (status, mark) in [(401, None), (403, None), (425, None), (429, None), (500, Some("none"))] {
        let upstream = Upstream::start(move |arrival, wire| {
            let headers: Vec<_> = mark.map(|mark| ("semel-effect", mark)).into_iter().collect();
            match arrival.number {
                0 => wire.answer(status, &headers, "not now"),
                _ => wire.answer(201, &[], "done"),
            };
        });
        let values = "retry = { attempts = 1 }\nidempotency = { principal = \"none\" }";
        let gateway = Gateway::route(&upstream, values);
        gateway.call(&post("/pay").key("k")).said(status, "not now", "none");
        assert!(gateway.live().is_empty());
        gateway.call(&post("/pay").key("k")).said(201, "done", "committed").is_replay(false);
    }
}

#[test]
fn a_route_says_which_statuses_prove_what() {
    let upstream = Upstream::start(|arrival, wire| {
        wire.answer([503, 429, 500][arrival.number], &[], "said");
    });
    let values = "retry = { attempts = 1 }\n\
                  idempotency = { principal = \"none\", not_executed = [503], final = [500] }";
    let gateway = Gateway::route(&upstream, values);
    gateway.call(&post("/pay").key("listed")).said(503, "said", "none");
    gateway.call(&post("/pay").key("withdrawn")).said(429, "said", "committed");
    gateway.call(&post("/pay").key("final")).said(500, "said", "committed");
    gateway.call(&post("/pay").key("final")).said(500, "said", "committed").is_replay(true);
}

#[test]
fn without_the_ledger_nothing_is_sent() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, PLAIN);
    let down = |ops: &'static [Op], error: LedgerError| {
        gateway.ledger.all(ops, Fate::Fails(error));
        let answer = gateway.call(&post("/pay").key("k"));
        answer.refused(503, "ledger-unavailable");
        assert_eq!((answer.header("semel-effect"), answer.header("retry-after")), (Some("none"), Some("5")));
        assert_eq!(answer.header("x-should-retry"), Some("true"));
    };
    down(&[Op::LookUp], LedgerError::Unreachable("away".to_owned()));
    down(&[Op::Claim], LedgerError::Unreachable("away".to_owned()));
    down(&[Op::Claim], LedgerError::Stopped("stopped".to_owned()));
    assert_eq!(upstream.count(), 0);
    gateway.ledger.is_up();
    gateway.call(&post("/pay").key("k")).said(201, "done 0", "committed");
}

/// The claim may stand or not: it is not sent, and its lease lapses into what is known, nothing.
#[test]
fn a_claim_whose_fate_is_uncertain_is_not_sent() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, PLAIN);
    let uncertain = LedgerError::Uncertain("the test says so".to_owned());
    gateway.ledger.all(&[Op::Claim], Fate::CarriedOutAndFails(uncertain));
    gateway.call(&post("/pay").key("k")).refused(503, "ledger-unavailable");
    gateway.ledger.is_up();
    gateway.ledger.clock.advance(Duration::from_secs(31));
    gateway.call(&post("/pay").key("k")).refused(409, "outcome-unknown");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_full_disk_takes_no_new_effects_and_replays_the_old() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, PLAIN);
    gateway.call(&post("/pay").key("old")).said(201, "done 0", "committed");
    gateway.ledger.all(&[Op::Claim], Fate::Fails(LedgerError::ClaimsPaused("disk".to_owned())));
    let answer = gateway.call(&post("/pay").key("new"));
    answer.refused(503, "disk-reserve");
    assert_eq!(answer.header("retry-after"), Some("30"));
    gateway.call(&post("/pay").key("old")).said(201, "done 0", "committed").is_replay(true);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_route_may_choose_to_run_unguarded_without_the_ledger() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, r#"principal = "none", on_ledger_down = "open""#);
    gateway.ledger.is_down();
    let mut keys = Vec::new();
    for n in 0..2 {
        let answer = gateway.call(&post("/pay").key("k"));
        assert_eq!((answer.status(), answer.body.as_str()), (201, format!("done {n}").as_str()));
        assert_eq!(answer.header("semel-effect"), None);
        keys.push(upstream.arrivals()[n].key().to_owned());
    }
    gateway.ledger.is_up();
    gateway.call(&post("/pay").key("k")).said(201, "done 2", "committed");
    keys.push(upstream.arrivals()[2].key().to_owned());
    // An upstream that honours keys still sees one.
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}
