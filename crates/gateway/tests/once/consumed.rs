//! Executed, and the answer is not kept: a tombstone before the first byte, and never a second run.

use crate::support::{Fate, Gate, Gateway, Hold, Op, PLAIN, Upstream, post};

fn tombstone_stands(gateway: &Gateway, upstream: &Upstream, status: u16) {
    let again = gateway.call(&post("/pay").key("k"));
    again.refused(409, "consumed");
    assert_eq!(again.json()["stored_status"], status);
    assert_eq!((again.header("semel-effect"), again.header("x-should-retry")), (Some("committed"), Some("false")));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn an_answer_over_the_cap_is_passed_on_whole() {
    let body = "x".repeat(5000);
    let said = body.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.answer(201, &[("location", "/1")], &said);
    });
    let gateway = Gateway::once(&upstream, r#"principal = "none", response_cap = "4KiB""#);
    let first = gateway.call(&post("/pay").key("k"));
    first.said(201, &body, "committed").is_replay(false);
    assert_eq!((first.header("location"), first.header("content-length")), (Some("/1"), Some("5000")));
    tombstone_stands(&gateway, &upstream, 201);
}

#[test]
fn an_answer_of_unknown_length_is_passed_on_whole() {
    let upstream = Upstream::start(|_, wire| {
        wire.say("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..5 {
            wire.say(&format!("400\r\n{}\r\n", "y".repeat(1024)));
        }
        wire.say("0\r\n\r\n");
    });
    let gateway = Gateway::once(&upstream, r#"principal = "none", response_cap = "4KiB""#);
    gateway.call(&post("/pay").key("k")).said(201, &"y".repeat(5 * 1024), "committed");
    tombstone_stands(&gateway, &upstream, 201);
}

#[test]
fn an_answer_of_exactly_the_cap_is_kept() {
    let body = "z".repeat(4096);
    let said = body.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.answer(201, &[], &said);
    });
    let gateway = Gateway::once(&upstream, r#"principal = "none", response_cap = "4KiB""#);
    for replay in [false, true] {
        gateway.call(&post("/pay").key("k")).said(201, &body, "committed").is_replay(replay);
    }
}

#[test]
fn an_event_stream_flows_as_it_comes() {
    let gate = Gate::default();
    let shut = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        wire.say("9\r\ndata: 1\n\n\r\n").wait(&shut).say("9\r\ndata: 2\n\n\r\n0\r\n\r\n");
    });
    let gateway = Gateway::once(&upstream, PLAIN);
    let mut first = gateway.send(&post("/pay").key("k"));
    assert_eq!(first.head().header("semel-effect"), Some("committed"));
    // The second event does not exist yet.
    assert_eq!(first.chunk().as_deref(), Some("data: 1\n\n"));
    // The caller has a byte, so the tombstone stands already.
    tombstone_stands(&gateway, &upstream, 200);
    gate.open();
    assert_eq!(first.chunk().as_deref(), Some("data: 2\n\n"));
    assert_eq!(first.chunk(), None);
}

#[test]
fn a_route_may_keep_no_bodies() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, r#"principal = "none", store_body = false"#);
    gateway.call(&post("/pay").key("k")).said(201, "done 0", "committed");
    tombstone_stands(&gateway, &upstream, 201);
}

/// No byte of the answer goes back before the ledger has it, whatever kind of answer it is.
#[test]
fn the_settlement_comes_before_the_first_byte() {
    let upstream = Upstream::start(|_, wire| {
        wire.answer(201, &[], &"x".repeat(100));
    });
    for values in ["", r#", store_body = false"#, r#", response_cap = "16B""#] {
        let gateway = Gateway::once(&upstream, &format!("{PLAIN}{values}"));
        let hold = Hold::new();
        gateway.ledger.all(&[Op::Settle], Fate::Waits(hold.clone()));
        let mut caller = gateway.send(&post("/pay").key("k"));
        gateway.ledger.wait_for(Op::Settle, 1);
        assert!(caller.is_silent(), "{values}");
        hold.let_go();
        caller.answer().said(201, &"x".repeat(100), "committed");
    }
}

/// With `ack = "early"` the answer may overtake its settlement, but never a tombstone: that answer is all there is.
#[test]
fn an_early_answer_overtakes_only_a_settlement_that_keeps_it() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, r#"principal = "none", ack = "early""#);
    let hold = Hold::new();
    gateway.ledger.all(&[Op::Settle], Fate::Waits(hold.clone()));
    gateway.call(&post("/pay").key("k")).said(201, "done 0", "committed");
    let mut duplicate = gateway.send(&post("/pay").key("k"));
    gateway.ledger.wait_for(Op::LookUp, 2);
    hold.let_go();
    duplicate.answer().said(201, "done 0", "committed").is_replay(true);

    let gateway = Gateway::once(&upstream, r#"principal = "none", ack = "early", store_body = false"#);
    let hold = Hold::new();
    gateway.ledger.all(&[Op::Settle], Fate::Waits(hold.clone()));
    let mut caller = gateway.send(&post("/pay").key("k"));
    gateway.ledger.wait_for(Op::Settle, 1);
    assert!(caller.is_silent());
    hold.let_go();
    caller.answer().said(201, "done 1", "committed");
}
