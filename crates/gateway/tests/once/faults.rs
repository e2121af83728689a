//! Faults on purpose, at the place of the upstream.

use crate::support::{Call, Gateway, Upstream, post, route};

#[test]
fn an_abort_is_answered_by_nobody_else() {
    let upstream = Upstream::executing();
    let values = r#"
idempotency = { principal = "none" }
retry = { attempts = 1 }
fault = { abort = "503", only = { x-rehearse = true } }"#;
    let gateway = Gateway::route(&upstream, values);
    let refused = gateway.call(&post("/pay").key("k1").header("x-rehearse", "yes"));
    // As of an upstream that answers so: it may have been executed.
    assert_eq!((refused.status(), refused.header("semel-effect")), (503, Some("unknown")));
    assert_eq!(upstream.count(), 0);
    gateway.call(&post("/pay").key("k2")).said(201, "done 0", "committed");
}

#[test]
fn a_share_of_the_attempts_fails_and_retries_heal_it() {
    let upstream = Upstream::executing();
    let values = "fault = { abort = \"500 30%\" }\nretry = { attempts = 10, backoff = \"1ms\", budget = \"100%\" }";
    let gateway = Gateway::of(upstream.address, &route("GET /read", "read", values));
    for _ in 0..50 {
        assert_eq!(gateway.call(&Call::new("GET", "/read")).status(), 201);
    }
    assert_eq!(upstream.count(), 50);
    assert!(!gateway.counts("semel_attempts_total{route=\"GET /read\",end=\"answered\"} 50\n"), "some were repeated");
}

#[test]
fn an_answer_breaks_off_and_is_not_passed_off_as_whole() {
    let upstream = Upstream::start(|_, wire| {
        wire.answer(200, &[], "0123456789");
    });
    let passing = route("GET /read", "read", "fault = { by_header = true }");
    let gateway = Gateway::of(upstream.address, &passing);
    let mut caller = gateway.send(&Call::new("GET", "/read").header("semel-fault-truncate", "4"));
    assert!(caller.is_closed(), "before its end");
    let whole = gateway.call(&Call::new("GET", "/read").header("semel-fault-truncate", "10"));
    assert_eq!(whole.body, "0123456789");
    // What strangers ask for does not count.
    let gateway = Gateway::of(upstream.address, &route("GET /read", "read", ""));
    assert_eq!(gateway.call(&Call::new("GET", "/read").header("semel-fault-truncate", "4")).body, "0123456789");
}

#[test]
fn an_answer_that_breaks_off_leaves_an_effect_unknown() {
    let upstream = Upstream::executing();
    let values = "idempotency = { principal = \"none\" }\nretry = { attempts = 1 }\nfault = { truncate = \"3B\" }";
    let gateway = Gateway::route(&upstream, values);
    let answer = gateway.call(&post("/pay").key("k1"));
    assert_eq!(answer.header("semel-effect"), Some("unknown"));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_delay_is_cut_short_by_the_callers_deadline() {
    let upstream = Upstream::executing();
    let gateway = Gateway::of(upstream.address, &route("POST /pass", "forward", "fault = { delay = \"50s\" }"));
    let answer = gateway.call(&post("/pass").header("semel-timeout", "50"));
    answer.refused(504, "deadline-exceeded");
    assert_eq!(upstream.count(), 0);
}
