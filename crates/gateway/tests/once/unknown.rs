//! Nobody knows whether it happened: it is told, and it is never silently run again.

use std::time::Duration;

use semel_core::effect::Phase;

use crate::support::{Fate, Gate, Gateway, Op, PLAIN, Upstream, Wire, post};

const RETRY: &str = r#"principal = "none", on_unknown = "retry", upstream_keep = "24h""#;

/// A route that attempts again quickly.
fn retrying(upstream: &Upstream, attempts: u32) -> Gateway {
    let retry = format!("retry = {{ attempts = {attempts}, backoff = \"1ms..2ms\" }}");
    Gateway::route(upstream, &format!("{retry}\nidempotency = {{ {RETRY} }}"))
}

fn is_held(gateway: &Gateway, upstream: &Upstream) {
    let arrivals = upstream.count();
    for _ in 0..2 {
        let again = gateway.call(&post("/pay").key("k"));
        again.refused(409, "outcome-unknown");
        assert_eq!((again.header("semel-effect"), again.header("x-should-retry")), (Some("unknown"), Some("false")));
    }
    assert_eq!(upstream.count(), arrivals);
    assert_eq!(gateway.live().len(), 1);
}

#[test]
fn the_upstreams_own_failure_is_shown_once_and_pinned_never() {
    for status in [500, 502, 503, 504, 408] {
        let upstream = Upstream::start(move |_, wire| {
            wire.answer(status, &[], "oh");
        });
        let gateway = Gateway::once(&upstream, PLAIN);
        let first = gateway.call(&post("/pay").key("k"));
        first.said(status, "oh", "unknown");
        assert_eq!(first.header("x-should-retry"), Some("false"));
        is_held(&gateway, &upstream);
    }
}

#[test]
fn a_lost_answer_is_unknown() {
    let ways: [fn(&mut Wire<'_>); 6] = [
        |wire| wire.close(),
        |wire| wire.reset(),
        |wire| wire.say("HTTP/1.1 201 Cre").close(),
        |wire| wire.say("HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\nhalf").close(),
        |wire| wire.say("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").close(),
        |wire| wire.say("\x16\x03\x01 not HTTP\r\n\r\n").close(),
    ];
    for way in ways {
        let upstream = Upstream::start(move |_, wire| way(wire));
        let gateway = Gateway::once(&upstream, PLAIN);
        let first = gateway.call(&post("/pay").key("k"));
        first.refused(504, "outcome-unknown");
        assert_eq!((first.header("semel-effect"), first.header("x-should-retry")), (Some("unknown"), Some("false")));
        is_held(&gateway, &upstream);
    }
}

#[test]
fn an_answer_that_takes_too_long_is_unknown() {
    let gate = Gate::default();
    let shut = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.wait(&shut).close();
    });
    let gateway = Gateway::route(&upstream, "timeout = { total = \"100ms\" }\nidempotency = { principal = \"none\" }");
    gateway.call(&post("/pay").key("k")).refused(504, "outcome-unknown");
    gateway.quiet();
    is_held(&gateway, &upstream);
    gate.open();
}

#[test]
fn the_upstreams_word_goes_before_its_status() {
    for mark in ["unknown", "open"] {
        let upstream = Upstream::start(move |_, wire| {
            wire.answer(200, &[("semel-effect", mark)], "who knows");
        });
        let values = "retry = { attempts = 1 }\nidempotency = { principal = \"none\" }";
        let gateway = Gateway::route(&upstream, values);
        gateway.call(&post("/pay").key("k")).said(200, "who knows", "unknown");
        is_held(&gateway, &upstream);
    }
    let upstream = Upstream::start(|_, wire| {
        wire.answer(500, &[("semel-effect", "committed")], "done, and then");
    });
    let gateway = Gateway::once(&upstream, PLAIN);
    for replay in [false, true] {
        gateway.call(&post("/pay").key("k")).said(500, "done, and then", "committed").is_replay(replay);
    }
}

#[test]
fn under_retry_the_next_attempt_settles_it() {
    let upstream = Upstream::start(|arrival, wire| match arrival.number {
        0 => wire.close(),
        1 => {
            wire.answer(500, &[], "oh");
        }
        _ => {
            wire.answer(201, &[], "done");
        }
    });
    let gateway = retrying(&upstream, 3);
    gateway.call(&post("/pay").key("k")).said(201, "done", "committed").is_replay(false);
    let keys: Vec<_> = upstream.arrivals().iter().map(|arrival| arrival.key().to_owned()).collect();
    assert!(keys.len() == 3 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

/// Attempt 1 lost, attempt 2 refused: whatever refuses the second, the first may have been executed.
#[test]
fn what_follows_a_lost_attempt_never_releases_it() {
    let refusals: [fn(&mut Wire<'_>); 6] = [
        |wire| wire.answer(429, &[], "no").close(),
        |wire| wire.answer(401, &[], "no").close(),
        |wire| wire.answer(200, &[("semel-effect", "none")], "no").close(),
        |wire| wire.answer(409, &[], "no").close(),
        |wire| wire.answer(404, &[], "no").close(),
        |wire| wire.answer(422, &[], "no").close(),
    ];
    for refusal in refusals {
        let upstream = Upstream::start(move |arrival, wire| match arrival.number {
            0 => wire.close(),
            1 => refusal(wire),
            _ => {
                wire.answer(201, &[], "done");
            }
        });
        let gateway = retrying(&upstream, 2);
        let first = gateway.call(&post("/pay").key("k"));
        assert_eq!((first.header("semel-effect"), first.header("semel-source")), (Some("unknown"), Some("upstream")));
        assert_eq!(gateway.live()[0].phase(semel_ledger::Ledger::now(&*gateway.ledger)), Phase::Unknown);
        // A duplicate carries the body, so under `retry` it opens the effect again.
        assert_eq!(first.header("x-should-retry"), Some("true"));
        gateway.call(&post("/pay").key("k")).said(201, "done", "committed").is_replay(false);
        gateway.call(&post("/pay").key("k")).said(201, "done", "committed").is_replay(true);
        assert_eq!(upstream.count(), 3);
    }
}

#[test]
fn what_the_upstream_may_have_forgotten_is_not_attempted_again() {
    let upstream = Upstream::start(|_, wire| wire.close());
    let gateway = retrying(&upstream, 1);
    gateway.call(&post("/pay").key("k")).refused(504, "outcome-unknown");
    gateway.ledger.clock.advance(Duration::from_secs(24 * 3600));
    gateway.call(&post("/pay").key("k")).refused(409, "outcome-unknown");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn another_request_cannot_open_it_again() {
    let upstream = Upstream::start(|_, wire| wire.close());
    let gateway = retrying(&upstream, 1);
    gateway.call(&post("/pay").key("k")).refused(504, "outcome-unknown");
    gateway.call(&post("/pay").key("k").body("{}")).refused(422, "key-reused");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_lapsed_lease_is_unknown_and_the_late_answer_settles_it() {
    let gate = Gate::default();
    let shut = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.wait(&shut).answer(201, &[], "late");
    });
    let gateway = Gateway::once(&upstream, PLAIN);
    let mut first = gateway.send(&post("/pay").key("k"));
    upstream.wait_for(1);
    gateway.ledger.clock.advance(Duration::from_secs(31));
    is_held(&gateway, &upstream);
    gate.open();
    first.answer().said(201, "late", "committed");
    gateway.call(&post("/pay").key("k")).said(201, "late", "committed").is_replay(true);
}

#[test]
fn a_caller_that_hangs_up_cancels_nothing() {
    let gate = Gate::default();
    let shut = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.wait(&shut).answer(201, &[], "done");
    });
    let gateway = Gateway::once(&upstream, PLAIN);
    let caller = gateway.send(&post("/pay").key("k"));
    upstream.wait_for(1);
    drop(caller);
    gate.open();
    gateway.quiet();
    gateway.call(&post("/pay").key("k")).said(201, "done", "committed").is_replay(true);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_settlement_that_cannot_be_written_is_unknown() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, PLAIN);
    let gone = semel_ledger::LedgerError::Stopped("the test says so".to_owned());
    gateway.ledger.all(&[Op::Settle, Op::Renew], Fate::Fails(gone));
    gateway.call(&post("/pay").key("k")).refused(504, "outcome-unknown");
    gateway.ledger.is_up();
    gateway.ledger.clock.advance(Duration::from_secs(31));
    is_held(&gateway, &upstream);
}

#[test]
fn a_settlement_is_written_again_while_the_ledger_is_away() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, PLAIN);
    let uncertain = semel_ledger::LedgerError::Uncertain("the test says so".to_owned());
    let mut failures = 3;
    gateway.ledger.plan(move |op| match op {
        Op::Settle if failures > 0 => {
            failures -= 1;
            if failures == 1 { Fate::CarriedOutAndFails(uncertain.clone()) } else { Fate::Fails(uncertain.clone()) }
        }
        _ => Fate::Good,
    });
    gateway.call(&post("/pay").key("k")).said(201, "done 0", "committed");
    gateway.call(&post("/pay").key("k")).said(201, "done 0", "committed").is_replay(true);
}
