//! semel behind semel: the inner one's word on the effect goes before its status.

use std::sync::Arc;

use crate::support::{Caller, Fate, Gate, Gateway, Hold, Op, TestLedger, Upstream, config, eventually, post, route};

const RETRY: &str = r#"principal = "none", on_unknown = "retry", upstream_keep = "24h""#;

/// A gateway in front of another.
fn before(inner: &Gateway, values: &str) -> Gateway {
    Gateway::of(inner.address(), &route("POST /pay", "once", values))
}

#[test]
fn a_chain_executes_once_and_replays() {
    let upstream = Upstream::executing();
    let inner = Gateway::once(&upstream, r#"principal = "none""#);
    let outer = before(&inner, r#"idempotency = { principal = "none" }"#);
    let first = outer.call(&post("/pay").key("k"));
    first.said(201, "done 0", "committed").is_replay(false);
    let again = outer.call(&post("/pay").key("k"));
    again.said(201, "done 0", "committed").is_replay(true);
    assert_eq!(first.header("semel-effect-id"), again.header("semel-effect-id"));
    assert_eq!(again.header("idempotency-key"), Some("k"));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn retries_do_not_multiply_along_a_chain() {
    let upstream = Upstream::start(|_, wire| {
        wire.answer(429, &[("retry-after", "0")], "slow down");
    });
    let values = "retry = { attempts = 3, backoff = \"1ms..2ms\" }\nidempotency = { principal = \"none\" }";
    let inner = Gateway::route(&upstream, values);
    let middle = before(&inner, values);
    let outer = before(&middle, values);
    outer.call(&post("/pay").key("k")).said(429, "slow down", "none");
    assert_eq!(upstream.count(), 3);
}

/// The outer attempt gives up while the inner one still waits: the inner one is asked again, and says `open` first.
#[test]
fn an_open_effect_behind_it_is_waited_for() {
    let gate = Gate::default();
    let shut = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.wait(&shut).answer(201, &[], "done");
    });
    let inner = Gateway::once(&upstream, r#"principal = "none", join = "0s""#);
    let values = "timeout = { attempt = \"200ms\" }\nretry = { attempts = 100, backoff = \"1ms..2ms\" }\n";
    let outer = before(&inner, &format!("{values}idempotency = {{ {RETRY} }}"));
    let mut caller = outer.send(&post("/pay").key("k"));
    // Attempt 1 ran into its timeout; the second met `open`.
    inner.ledger.wait_for(Op::LookUp, 2);
    assert!(caller.is_silent());
    gate.open();
    caller.answer().said(201, "done", "committed").is_replay(false);
    assert_eq!(upstream.count(), 1);
}

/// The inner 409 `in-flight` proves nothing about the effect: it is not recorded as its answer.
#[test]
fn an_in_flight_answer_is_not_pinned() {
    let gate = Gate::default();
    let shut = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.wait(&shut).answer(201, &[], "done");
    });
    let inner = Gateway::once(&upstream, r#"principal = "none", join = "0s""#);
    let values = "timeout = { attempt = \"100ms\" }\nretry = { attempts = 1 }\n";
    let outer = before(&inner, &format!("{values}idempotency = {{ {RETRY} }}"));
    outer.call(&post("/pay").key("k")).refused(504, "outcome-unknown");
    let told = outer.call(&post("/pay").key("k"));
    assert_eq!((told.status(), told.header("semel-effect")), (409, Some("unknown")));
    assert_eq!(told.code(), "in-flight");
    gate.open();
    inner.quiet();
    outer.call(&post("/pay").key("k")).said(201, "done", "committed");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn unknown_behind_it_stays_unknown() {
    let upstream = Upstream::start(|_, wire| wire.close());
    let inner = Gateway::once(&upstream, r#"principal = "none""#);
    let values = "retry = { attempts = 3, backoff = \"1ms..2ms\" }\n";
    for idempotency in [r#"principal = "none""#, RETRY] {
        let outer = before(&inner, &format!("{values}idempotency = {{ {idempotency} }}"));
        for _ in 0..2 {
            let answer = outer.call(&post("/pay").key("k"));
            assert_eq!((answer.code().as_str(), answer.header("semel-effect")), ("outcome-unknown", Some("unknown")));
        }
    }
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_refusal_behind_it_frees_the_key_before_it() {
    let upstream = Upstream::executing();
    let inner = Gateway::once(&upstream, r#"principal = "none""#);
    inner.ledger.is_down();
    let outer = before(&inner, "retry = { attempts = 1 }\nidempotency = { principal = \"none\" }");
    let told = outer.call(&post("/pay").key("k"));
    assert_eq!((told.status(), told.header("semel-effect")), (503, Some("none")));
    assert_eq!(told.code(), "ledger-unavailable");
    assert!(outer.live().is_empty());
    inner.ledger.is_up();
    outer.call(&post("/pay").key("k")).said(201, "done 0", "committed").is_replay(false);
}

/// Two gateways race for the claim of one key on one ledger, in the narrowest place.
#[test]
fn of_two_gateways_that_claim_at_once_one_runs() {
    let upstream = Upstream::executing();
    let ledger = TestLedger::new();
    let file = config(upstream.address, &route("POST /pay", "once", r#"idempotency = { principal = "none" }"#));
    let gateways = [Gateway::over(Arc::clone(&ledger), &file), Gateway::over(Arc::clone(&ledger), &file)];
    let hold = Hold::new();
    ledger.all(&[Op::Claim], Fate::Waits(hold.clone()));
    let mut callers = [gateways[0].send(&post("/pay").key("k")), gateways[1].send(&post("/pay").key("k"))];
    eventually("both saw it absent", || ledger.asked(Op::Claim) == 2);
    hold.let_go();
    let answers = callers.each_mut().map(Caller::answer);
    for answer in &answers {
        answer.said(201, "done 0", "committed");
    }
    assert_eq!(answers.iter().filter(|answer| answer.header("idempotent-replayed").is_some()).count(), 1);
    assert_eq!(upstream.count(), 1);
}
