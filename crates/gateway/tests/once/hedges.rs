//! A second attempt beside a slow first one.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::support::{Arrival, Call, Gate, Gateway, Message, Upstream, eventually, post, route};

const HEDGED: &str = r#"
hedge = { min_calls = 5, quantile = "50%" }
retry = { attempts = 1 }"#;

/// Answers at once until it is told to be slow, and then when the gate opens.
fn sometimes_slow(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |arrival, wire| {
        if arrival.header("slow").is_some() {
            wire.wait(&gate);
        }
        wire.answer(200, &[], "slow");
    })
}

fn quick() -> Upstream {
    Upstream::start(|_, wire| {
        wire.answer(200, &[], "quick");
    })
}

/// Calls until the quantile is known, which is looked at ten times a second.
fn warm(call: impl Fn() -> Message) {
    let begun = semel_gateway::clock::now();
    while begun.elapsed() < Duration::from_millis(300) {
        assert_eq!(call().status(), 200);
    }
}

/// Whichever is asked first, the other one answers.
#[test]
fn a_slow_call_is_overtaken_at_another_endpoint() {
    let gate = Gate::default();
    let (slow, other) = (sometimes_slow(&gate), quick());
    let gateway = Gateway::before(&[&slow, &other], "", &route("GET /read", "read", HEDGED));
    warm(|| gateway.call(&Call::new("GET", "/read")));
    let before = slow.count();
    // Until the slow one was the first choice.
    eventually("a hedge", || {
        let answer = gateway.call(&Call::new("GET", "/read").header("slow", "yes"));
        assert_eq!((answer.status(), &*answer.body), (200, "quick"), "the slow one never answers");
        slow.count() > before
    });
    assert!(!gateway.counts("semel_hedges_total{route=\"GET /read\"} 0\n"));
    gate.open();
}

/// Without proof that a repeat is harmless there is no second attempt, however slow the first one is.
#[test]
fn an_effect_that_is_held_is_never_hedged() {
    let gate = Gate::default();
    let (slow, other) = (sometimes_slow(&gate), sometimes_slow(&gate));
    let values = format!("idempotency = {{ principal = \"none\" }}\n{HEDGED}");
    let gateway = Gateway::before(&[&slow, &other], "", &route("POST /pay", "once", &values));
    let key = AtomicU32::new(0);
    warm(|| gateway.call(&post("/pay").key(&key.fetch_add(1, Relaxed).to_string())));
    let is_slow = |arrival: &&Arrival| arrival.header("slow").is_some();
    let slow_ones = || [&slow, &other].iter().flat_map(|upstream| upstream.arrivals()).filter(|a| is_slow(&a)).count();
    let mut call = gateway.send(&post("/pay").key("slow").header("slow", "yes"));
    eventually("the call at an upstream", || slow_ones() == 1);
    // Longer than any call so far.
    gateway.call(&post("/pay").key("another")).said(200, "slow", "committed");
    gate.open();
    call.answer().said(200, "slow", "committed");
    assert_eq!(slow_ones(), 1);
    assert!(gateway.counts("semel_hedges_total{route=\"POST /pay\"} 0\n"));
}

#[test]
fn an_effect_whose_upstream_honours_the_key_is_hedged_under_one_key() {
    let gate = Gate::default();
    let (slow, other) = (sometimes_slow(&gate), sometimes_slow(&gate));
    let retrying = r#"idempotency = { principal = "none", on_unknown = "retry", upstream_keep = "1d" }"#;
    let gateway = Gateway::before(&[&slow, &other], "", &route("POST /pay", "once", &format!("{retrying}{HEDGED}")));
    let key = AtomicU32::new(0);
    warm(|| gateway.call(&post("/pay").key(&key.fetch_add(1, Relaxed).to_string())));
    let is_slow = |arrival: &&Arrival| arrival.header("slow").is_some();
    let slow_ones = || [&slow, &other].iter().flat_map(|upstream| upstream.arrivals()).filter(|a| is_slow(&a)).count();
    let mut call = gateway.send(&post("/pay").key("slow").header("slow", "yes"));
    eventually("both attempts", || slow_ones() == 2);
    gate.open();
    call.answer().said(200, "slow", "committed");
    let keys: Vec<_> = [&slow, &other]
        .iter()
        .flat_map(|upstream| upstream.arrivals())
        .filter(|arrival| is_slow(&arrival))
        .map(|arrival| (arrival.key().to_owned(), arrival.header("semel-attempt").unwrap().to_owned()))
        .collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[0].1, "1/2", "whoever is behind does not repeat");
    gateway.call(&post("/pay").key("slow").header("slow", "yes")).is_replay(true);
}

/// An upstream that honours keys tells the second attempt that the first is under way: that is no answer of the effect.
#[test]
fn a_conflict_with_the_first_attempt_ends_nothing() {
    let (gate, arrived) = (Gate::default(), Arc::new(AtomicU32::new(0)));
    let upstream = || {
        let (gate, arrived) = (gate.clone(), Arc::clone(&arrived));
        Upstream::start(move |arrival, wire| {
            let is_slow = arrival.header("slow").is_some();
            if is_slow && arrived.fetch_add(1, Relaxed) > 0 {
                wire.answer(409, &[], "in use");
                return;
            }
            if is_slow {
                wire.wait(&gate);
            }
            wire.answer(200, &[], "done");
        })
    };
    let (one, other) = (upstream(), upstream());
    let retrying = r#"idempotency = { principal = "none", on_unknown = "retry", upstream_keep = "1d" }"#;
    let gateway = Gateway::before(&[&one, &other], "", &route("POST /pay", "once", &format!("{retrying}{HEDGED}")));
    let key = AtomicU32::new(0);
    warm(|| gateway.call(&post("/pay").key(&key.fetch_add(1, Relaxed).to_string())));
    let mut call = gateway.send(&post("/pay").key("slow").header("slow", "yes"));
    eventually("both attempts", || arrived.load(Relaxed) == 2);
    // The refusal is on its way or there; the first attempt goes on either way.
    gate.open();
    call.answer().said(200, "done", "committed");
    gateway.call(&post("/pay").key("slow").header("slow", "yes")).said(200, "done", "committed").is_replay(true);
    assert_eq!(arrived.load(Relaxed), 2);
}

#[test]
fn a_failure_fires_the_hedge_at_once() {
    let failing = Upstream::start(|arrival, wire| {
        let status = if arrival.header("fail").is_some() { 500 } else { 200 };
        wire.answer(status, &[], "mine");
    });
    let other = quick();
    let values = "hedge = { min_calls = 5, min_delay = \"1h\" }\nretry = { attempts = 1 }";
    let gateway = Gateway::before(&[&failing, &other], "", &route("GET /read", "read", values));
    warm(|| gateway.call(&Call::new("GET", "/read")));
    let before = failing.count();
    eventually("the failing one is the first choice", || {
        let answer = gateway.call(&Call::new("GET", "/read").header("fail", "yes"));
        assert_eq!((answer.status(), &*answer.body), (200, "quick"));
        failing.count() > before
    });
}
