//! How often and in which shape a request goes upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::support::{Call, Gate, Gateway, Upstream, config, post, route};

const QUICK: &str = r#"retry = { attempts = 3, backoff = "1ms..2ms" }"#;

fn quick(upstream: &Upstream, idempotency: &str) -> Gateway {
    Gateway::route(upstream, &format!("{QUICK}\nidempotency = {{ principal = \"none\"{idempotency} }}"))
}

/// Says 429 `refusals` times, then executes.
fn reluctant(refusals: usize) -> Upstream {
    Upstream::start(move |arrival, wire| {
        if arrival.number < refusals {
            wire.answer(429, &[("retry-after", "0")], "slow down");
        } else {
            wire.answer(201, &[], "done");
        }
    })
}

fn seen(upstream: &Upstream, header: &str) -> Vec<String> {
    upstream.arrivals().iter().map(|arrival| arrival.header(header).unwrap_or("-").to_owned()).collect()
}

#[test]
fn what_was_surely_not_executed_is_attempted_again() {
    let upstream = reluctant(2);
    let gateway = quick(&upstream, "");
    gateway.call(&post("/pay").key("k")).said(201, "done", "committed");
    assert_eq!(seen(&upstream, "semel-attempt"), ["1/3", "2/3", "3/3"]);
    assert_eq!(gateway.results.all()[0].1, 3);
}

#[test]
fn the_last_refusal_is_the_answer_and_the_key_is_free() {
    let upstream = reluctant(3);
    let gateway = quick(&upstream, "");
    gateway.call(&post("/pay").key("k")).said(429, "slow down", "none");
    gateway.call(&post("/pay").key("k")).said(201, "done", "committed").is_replay(false);
}

#[test]
fn every_attempt_has_one_key_a_span_and_a_token() {
    let upstream = reluctant(2);
    let gateway = quick(&upstream, "");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let call = post("/pay").key("k").header("traceparent", &format!("00-{trace}-b7ad6b7169203331-01"));
    gateway.call(&call.header("x-request-id", "r1")).said(201, "done", "committed");
    let keys = seen(&upstream, "idempotency-key");
    assert!(keys.iter().all(|key| *key == keys[0] && key.starts_with("once-")), "{keys:?}");
    let spans = seen(&upstream, "traceparent");
    assert!(spans.iter().all(|span| span.contains(trace)), "{spans:?}");
    assert!(spans[0] != spans[1] && spans[1] != spans[2], "{spans:?}");
    let tokens = seen(&upstream, "semel-settlement");
    assert!(tokens.iter().all(|token| token.len() > 20 && *token == tokens[0]), "{tokens:?}");
    assert_eq!(seen(&upstream, "x-request-id"), ["r1"; 3]);
    assert_eq!(seen(&upstream, "accept-encoding"), ["identity"; 3]);
}

#[test]
fn the_time_that_is_left_is_told_anew_each_time() {
    let upstream = reluctant(2);
    let gateway = quick(&upstream, "");
    let call = post("/pay").key("k").header("semel-timeout", "5000").header("grpc-timeout", "4S");
    gateway.call(&call).said(201, "done", "committed");
    let told: Vec<u64> = seen(&upstream, "semel-timeout").iter().map(|ms| ms.parse().unwrap()).collect();
    assert!(told[0] <= 4000 && told[0] >= told[1] && told[1] >= told[2] && told[2] > 3000, "{told:?}");
    assert!(seen(&upstream, "grpc-timeout").iter().all(|told| told != "4S"));
    // Without a shorter deadline it is the attempt's own time.
    gateway.call(&post("/pay").key("other")).said(201, "done", "committed");
    let told: u64 = upstream.arrivals()[3].header("semel-timeout").unwrap().parse().unwrap();
    assert!((9_000..=10_000).contains(&told), "{told}");
}

#[test]
fn the_callers_key_stays_here() {
    let upstream = Upstream::executing();
    let gateway = quick(&upstream, r#", key = "header:x-order", forward_header = "idempotency-key""#);
    gateway.call(&post("/pay").header("x-order", "o1")).said(201, "done 0", "committed");
    let arrival = &upstream.arrivals()[0];
    assert_eq!(arrival.header("x-order"), None);
    assert!(!format!("{arrival:?}").contains("o1"), "{arrival:?}");
}

#[test]
fn a_key_may_be_forwarded_as_it_is() {
    let upstream = reluctant(1);
    let gateway = quick(&upstream, r#", forward_key = "as-is""#);
    gateway.call(&post("/pay").key("\"k\"")).said(201, "done", "committed");
    assert_eq!(seen(&upstream, "idempotency-key"), ["\"k\"", "\"k\""]);
}

#[test]
fn duplicates_that_open_it_again_carry_the_same_key() {
    let upstream = Upstream::start(|arrival, wire| {
        if arrival.number == 0 {
            wire.close();
        } else {
            wire.answer(201, &[], "done");
        }
    });
    let values = "retry = { attempts = 1 }\n\
                  idempotency = { principal = \"none\", on_unknown = \"retry\", upstream_keep = \"24h\" }";
    let gateway = Gateway::route(&upstream, values);
    gateway.call(&post("/pay").key("k")).refused(504, "outcome-unknown");
    gateway.call(&post("/pay").key("\"k\"")).said(201, "done", "committed");
    let keys = seen(&upstream, "idempotency-key");
    assert_eq!(keys[0], keys[1]);
    // Another claim has another token.
    let tokens = seen(&upstream, "semel-settlement");
    assert_ne!(tokens[0], tokens[1]);
}

#[test]
fn only_the_outermost_hop_retries() {
    for (header, value) in [
        ("semel-attempt", "1/3"),
        ("semel-attempt", "nonsense"),
        ("x-envoy-attempt-count", "2"),
        ("grpc-previous-rpc-attempts", "1"),
    ] {
        let upstream = reluctant(1);
        let gateway = quick(&upstream, "");
        gateway.call(&post("/pay").key("k").header(header, value)).said(429, "slow down", "none");
        // Its mark goes on, so that nobody further along retries either.
        let mark = if header == "semel-attempt" { value } else { "1/1" };
        assert_eq!(seen(&upstream, "semel-attempt"), [mark]);
        assert_eq!(seen(&upstream, header), [value]);
    }
    let upstream = reluctant(1);
    let gateway = quick(&upstream, "");
    gateway.call(&post("/pay").key("k").header("semel-attempt", "1/1")).said(201, "done", "committed");
}

#[test]
fn an_unreachable_upstream_is_tried_until_it_is_there() {
    let mut upstream = Upstream::refusing(|_, wire| {
        wire.answer(201, &[], "done");
    });
    let gateway = quick(&upstream, "");
    let mut caller = gateway.send(&post("/pay").key("k"));
    crate::support::eventually("the claim", || gateway.effects.in_flight() == 1);
    upstream.listen();
    caller.answer().said(201, "done", "committed");
    // What never left was no attempt.
    assert_eq!(seen(&upstream, "semel-attempt"), ["1/3"]);
}

#[test]
fn a_keep_alive_connection_that_died_is_no_attempt() {
    let closed = Arc::new(AtomicU64::new(0));
    let closing = Arc::clone(&closed);
    let upstream = Upstream::start(move |arrival, wire| {
        wire.answer(201, &[], &format!("done {}", arrival.number));
        // It promised to stay, and goes.
        wire.close();
        closing.fetch_add(1, SeqCst);
    });
    let gateway = quick(&upstream, "");
    for n in 0..5 {
        gateway.call(&post("/pay").key(&format!("k{n}"))).said(201, &format!("done {n}"), "committed");
        crate::support::eventually("the end of the connection", || closed.load(SeqCst) == n + 1);
    }
    assert!(seen(&upstream, "semel-attempt").iter().all(|mark| mark == "1/3"));
}

/// An attempt that began may outlive its caller's deadline; its answer is recorded.
#[test]
fn an_effect_already_sent_is_not_dropped_with_its_callers_deadline() {
    let gate = Gate::default();
    let shut = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.wait(&shut).answer(201, &[], "late");
    });
    let gateway = quick(&upstream, "");
    gateway.call(&post("/pay").key("k").header("semel-timeout", "50")).refused(504, "outcome-unknown");
    gate.open();
    gateway.quiet();
    gateway.call(&post("/pay").key("k")).said(201, "late", "committed").is_replay(true);
    assert_eq!(upstream.count(), 1);
}

/// A black hole: the connection neither comes nor fails. Nothing is sent after the caller's deadline, and it is told so.
#[test]
fn nothing_is_begun_after_the_callers_deadline() {
    // A queue for connections that is full: further ones get no answer at all.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let fill = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50));
    let filling: Vec<_> = std::iter::from_fn(|| fill().ok()).take(8).collect();
    assert!(fill().is_err(), "the queue has room for more than {}", filling.len());
    let gateway = Gateway::of(address, &route("POST /pay", "once", "idempotency = { principal = \"none\" }"));
    let answer = gateway.call(&post("/pay").key("k").header("semel-timeout", "100"));
    answer.refused(504, "upstream-connect-timeout");
    assert_eq!(answer.header("semel-effect"), Some("none"));
    gateway.quiet();
    assert!(gateway.live().is_empty());
}

/// A hundred retries in ten seconds are always allowed; beyond them it is a part of the calls.
#[test]
fn when_everybody_has_retried_enough_the_caller_is_told_not_to() {
    let upstream = Upstream::start(|_, wire| {
        wire.answer(429, &[("retry-after", "0")], "slow down");
    });
    let values = "retry = { attempts = 10, backoff = \"1ms..1ms\", budget = \"1%\" }\n";
    let once = route("POST /pay", "once", &format!("{values}idempotency = {{ principal = \"none\" }}"));
    let gateway = Gateway::of(upstream.address, &format!("{once}{}", route("PUT /put", "idempotent", values)));
    for call in [post("/pay").key("k"), Call::new("PUT", "/put")] {
        let before = upstream.count();
        let mut answers = (1..40).map(|n| (n, gateway.call(&call)));
        let (calls, told) = answers.find(|(_, answer)| answer.header("x-should-retry").is_some()).expect("it is told");
        assert_eq!((told.status(), told.body.as_str()), (429, "slow down"));
        assert_eq!((told.header("x-should-retry"), told.header("stripe-should-retry")), (Some("false"), Some("false")));
        let retries = upstream.count() - before - calls;
        assert!((100..110).contains(&retries), "{retries} retries of {calls} calls");
    }
}

#[test]
fn replicas_are_tried_in_turn() {
    let dead = Upstream::refusing(|_, _| {});
    let live = Upstream::executing();
    let file = config(live.address, &route("POST /pay", "once", "idempotency = { principal = \"none\" }"))
        .replace("urls = [", &format!("urls = [\"http://{}\", ", dead.address));
    let gateway = Gateway::over(crate::support::TestLedger::new(), &file);
    for n in 0..4 {
        gateway.call(&post("/pay").key(&format!("k{n}"))).said(201, &format!("done {n}"), "committed");
    }
}
