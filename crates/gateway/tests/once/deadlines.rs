//! Callers that say how long they wait, on routes that stream: `forward`, and what passes without an effect elsewhere.

use std::time::Duration;

use semel_gateway::clock;

use crate::support::{Call, Gate, Gateway, Op, PLAIN, Upstream, eventually, post, route};

/// Streams, because a query with so large a body is not kept.
fn large_query() -> Call {
    Call::new("GET", "/search").body(&"x".repeat((1 << 20) + 1))
}

fn routes(values: &str) -> String {
    let once = format!("{values}idempotency = {{ {PLAIN}, required = false }}");
    [route("* /free", "forward", values), route("GET /search", "read", values), route("POST /pay", "once", &once)]
        .concat()
}

/// One request of each way on which an answer streams and nothing is repeated.
fn calls() -> [Call; 3] {
    [post("/free").body("10"), large_query(), post("/pay").body("10")]
}

fn milliseconds(told: Option<&str>) -> u64 {
    told.unwrap().parse().unwrap()
}

#[test]
fn an_answer_later_than_the_caller_waits_is_504() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.wait(&held).answer(200, &[], "too late");
    });
    let gateway = Gateway::of(upstream.address, &routes(""));
    let waits = [("semel-timeout", "600"), ("grpc-timeout", "600m"), ("x-envoy-expected-rq-timeout-ms", "600")];
    for (call, (name, value)) in calls().into_iter().zip(waits) {
        let answer = gateway.call(&call.header(name, value));
        answer.refused(504, "upstream-timeout");
        assert_eq!(answer.header("semel-effect"), Some("unknown"));
    }
    gate.open();
    assert_eq!(gateway.ledger.asked(Op::LookUp), 0);
}

#[test]
fn the_upstream_is_told_what_is_left() {
    let upstream = Upstream::executing();
    let gateway = Gateway::of(upstream.address, &routes(""));
    for call in calls() {
        let call = call.header("semel-timeout", "9000").header("grpc-timeout", "8S");
        assert_eq!(gateway.call(&call.header("x-envoy-expected-rq-timeout-ms", "7000")).status(), 201);
    }
    for arrival in upstream.arrivals() {
        let told = milliseconds(arrival.header("semel-timeout"));
        assert!((3_000..=7_000).contains(&told), "the shortest counts: {told}");
        assert_eq!(milliseconds(arrival.header("x-envoy-expected-rq-timeout-ms")), told);
        assert!(!arrival.header("grpc-timeout").unwrap().ends_with('S'), "{arrival:?}");
    }
    // Who says nothing changes nothing.
    for call in calls() {
        assert_eq!(gateway.call(&call).status(), 201);
    }
    assert!(upstream.arrivals()[3..].iter().all(|arrival| arrival.header("semel-timeout").is_none()));
}

#[test]
fn nobody_waits_longer_than_the_route() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.wait(&held).answer(200, &[], "too late");
    });
    let gateway = Gateway::of(upstream.address, &routes("timeout = { total = \"600ms\" }\n"));
    for call in calls() {
        gateway.call(&call.header("semel-timeout", "60000")).refused(504, "upstream-timeout");
    }
    gate.open();
    assert!(upstream.arrivals().iter().all(|arrival| milliseconds(arrival.header("semel-timeout")) <= 600));
}

#[test]
fn no_time_at_all_sends_nothing_and_what_cannot_be_read_is_refused() {
    let upstream = Upstream::executing();
    let gateway = Gateway::of(upstream.address, &routes(""));
    for call in calls() {
        let answer = gateway.call(&call.header("semel-timeout", "0"));
        answer.refused(504, "deadline-exceeded");
        assert_eq!(answer.header("semel-effect"), Some("none"));
    }
    for call in calls() {
        gateway.call(&call.header("grpc-timeout", "soon")).refused(400, "request-malformed");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn an_answer_that_has_begun_is_not_cut() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        wire.wait(&held).say("4\r\nlast\r\n0\r\n\r\n");
    });
    let gateway = Gateway::of(upstream.address, &routes(""));
    let mut caller = gateway.send(&post("/free").header("semel-timeout", "1500"));
    assert_eq!(caller.head().status(), 200);
    assert_eq!(caller.chunk().as_deref(), Some("first"));
    let until = clock::now() + Duration::from_millis(1_500);
    eventually("the deadline", || clock::now() > until);
    gate.open();
    assert_eq!(caller.chunk().as_deref(), Some("last"));
    assert_eq!(caller.chunk(), None);
}
