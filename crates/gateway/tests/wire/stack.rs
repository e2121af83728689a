//! The whole path over real sockets: routes, retries and the `once` path with the model ledger.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use semel_core::effect::Owner;
use semel_gateway::listener::{Listener, ListenerSettings};
use semel_gateway::serving::Serving;
use semel_ledger::model::ModelLedger;
use semel_tower::{Effects, Observe};

use crate::support::{Caller, RawUpstream, eventually, header};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One route of each kind, in front of one upstream.
fn serve(upstream: SocketAddr, limits: &str) -> Serving {
    let text = format!(
        r#"
listen = {{ http = "127.0.0.1:0", admin = "127.0.0.1:0" }}
ledger.embedded = {{ path = "/nonexistent/not-opened-here" }}

[upstream.u]
urls = ["http://{upstream}"]

[profile.quick]
retry = {{ attempts = 3, backoff = "1ms..5ms" }}

[[route]]
match = "POST /pay"
to = "u"
effect = "once"
use = "quick"
body = {{ request_cap = "2KiB" }}
idempotency = {{ principal = "none", response_cap = "1KiB" }}

[[route]]
match = ["GET /items/{{id}}", "HEAD /items/{{id}}"]
to = "u"
effect = "read"
use = "quick"

[[route]]
match = "PUT /items/{{id}}"
to = "u"
effect = "idempotent"
use = "quick"
body = {{ request_cap = "1KiB" }}

[[route]]
match = "POST /hook"
to = "u"
effect = "forward"

{limits}
"#
    );
    let config = match semel_config::load("test.toml", &text) {
        Ok((config, _)) => config,
        Err(report) => panic!("{report:?}"),
    };
    let effects = Effects::new(Arc::new(ModelLedger::new().unwrap()), Owner(7));
    let nobody: Arc<dyn Observe> = Arc::new(());
    Serving::start(Arc::new(config), effects, Arc::new(move |_| Arc::clone(&nobody))).unwrap()
}

fn ask(serving: &Serving, request: &str) -> String {
    Caller::connect(serving.address()).send(request).answer()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn pay(key: &str, body: &str) -> String {
    format!("POST /pay HTTP/1.1\r\nHost: a\r\nIdempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An upstream that misbehaves for the first requests, then answers.
fn flaky(failures: usize, fail: fn(crate::support::RawConnection)) -> RawUpstream {
    let failed = AtomicUsize::new(0);
    RawUpstream::start(move |mut connection| {
        while connection.request().is_some() {
            if failed.fetch_add(1, SeqCst) < failures {
                return fail(connection);
            }
            connection.say(OK);
        }
    })
}

#[test]
fn reads_are_repeated_and_streamed() {
    let upstream = flaky(2, drop);
    let serving = serve(upstream.address, "");
    let answer = ask(&serving, &get("/items/1"));
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{answer}");
    let seen = upstream.seen();
    let marks: Vec<_> = seen.iter().map(|seen| header(seen, "semel-attempt").concat()).collect();
    assert_eq!(marks, ["1/3", "2/3", "3/3"]);
    let mut spans: Vec<_> = seen.iter().map(|seen| header(seen, "traceparent").concat()).collect();
    assert!(spans.iter().all(|span| span[..36] == spans[0][..36]), "one trace: {spans:?}");
    spans.sort_unstable();
    spans.dedup();
    assert_eq!(spans.len(), 3, "each attempt is a span of its own");
    let ids: Vec<_> = seen.iter().map(|seen| header(seen, "x-request-id").concat()).collect();
    assert!(ids.iter().all(|id| *id == ids[0] && header(&answer, "x-request-id") == [id.as_str()]), "{ids:?}");
}

#[test]
fn retries_belong_to_the_outermost_hop() {
    let upstream = flaky(9, drop);
    let serving = serve(upstream.address, "");
    let answer = ask(&serving, "GET /items/1 HTTP/1.1\r\nHost: a\r\nSemel-Attempt: 1/3\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn bodies_of_repeatable_requests_are_sent_again_whole() {
    let upstream = flaky(1, crate::support::RawConnection::reset);
    let serving = serve(upstream.address, "");
    let put = "PUT /items/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let mut caller = Caller::connect(serving.address());
    caller.send(put);
    assert!(caller.head().starts_with("HTTP/1.1 100 "));
    assert!(caller.answer().starts_with("HTTP/1.1 200 "));
    let seen = upstream.seen();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert!(seen.ends_with("\r\n\r\nhi"), "{seen}");
        assert_eq!(header(&seen, "content-length"), ["2"]);
        assert!(header(&seen, "expect").is_empty() && header(&seen, "transfer-encoding").is_empty(), "{seen}");
    }
    let large = format!("PUT /items/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n{}", "x".repeat(2000));
    let answer = ask(&serving, &large);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[test]
fn posts_without_a_ledger_are_not_repeated() {
    let upstream = flaky(1, drop);
    let serving = serve(upstream.address, "");
    let answer = ask(&serving, "POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(header(&answer, "semel-effect"), ["unknown"]);
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn routes_are_found_or_refused() {
    let upstream = RawUpstream::answering(OK);
    let serving = serve(upstream.address, "");
    assert!(ask(&serving, &get("/nowhere")).starts_with("HTTP/1.1 404 "));
    let answer = ask(&serving, "DELETE /items/1 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(header(&answer, "allow").concat().contains("PUT"), "{answer}");
    assert!(ask(&serving, "OPTIONS /pay HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 200 "), "OPTIONS pass");
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn an_effect_happens_once_and_is_replayed() {
    let upstream = RawUpstream::answering(
        "HTTP/1.1 201 Created\r\nContent-Length: 2\r\nLocation: /c/1\r\nSet-Cookie: s=1\r\nSemel-Source: gateway\r\n\r\nok",
    );
    let serving = serve(upstream.address, "");
    let first = ask(&serving, &pay("k1", "10"));
    let second = ask(&serving, &pay("\"k1\"", "10"));
    for answer in [&first, &second] {
        assert!(answer.starts_with("HTTP/1.1 201 ") && answer.ends_with("ok"), "{answer}");
        assert_eq!(header(answer, "location"), ["/c/1"]);
        assert_eq!(header(answer, "semel-effect"), ["committed"]);
        assert_eq!(header(answer, "semel-source"), ["upstream"]);
    }
    assert_eq!(header(&second, "idempotent-replayed"), ["true"]);
    assert!(header(&second, "set-cookie").is_empty(), "{second}");
    assert!(ask(&serving, &pay("k1", "11")).starts_with("HTTP/1.1 422 "));
    let seen = upstream.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(header(&seen[0], "accept-encoding"), ["identity"]);
    assert_ne!(header(&seen[0], "idempotency-key"), ["k1"], "the upstream sees a key of its own");
    // What it needs to settle the effect itself.
    assert_eq!(header(&seen[0], "semel-effect-id"), header(&first, "semel-effect-id"));
    assert!(header(&seen[0], "semel-settlement").concat().contains('.'), "{}", seen[0]);
}

#[test]
fn a_lost_effect_is_held_and_a_refused_one_released() {
    let upstream = flaky(1, drop);
    let serving = serve(upstream.address, "");
    let first = ask(&serving, &pay("k1", "10"));
    assert_eq!(header(&first, "semel-effect"), ["unknown"], "{first}");
    assert!(first.starts_with("HTTP/1.1 504 "), "{first}");
    assert!(ask(&serving, &pay("k1", "10")).starts_with("HTTP/1.1 409 "));
    assert_eq!(upstream.seen().len(), 1, "never silently run again");

    // Nobody listens: surely not executed, so the key stays usable.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let serving = serve(address, "");
    let mut caller = Caller::connect(serving.address());
    caller.send(
        "POST /pay HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k2\r\nSemel-Timeout: 100\r\nContent-Length: 0\r\n\r\n",
    );
    let refused = caller.answer();
    assert_eq!(header(&refused, "semel-effect"), ["none"], "{refused}");
}

#[test]
fn a_stale_connection_costs_an_effect_nothing() {
    // The upstream closes after each answer without saying so.
    let closed = Arc::new(AtomicUsize::new(0));
    let closing = Arc::clone(&closed);
    let upstream = RawUpstream::start(move |mut connection| {
        connection.request();
        connection.say(OK);
        drop(connection);
        closing.fetch_add(1, SeqCst);
    });
    let serving = serve(upstream.address, "");
    for n in 0..20 {
        let answer = ask(&serving, &pay(&format!("k{n}"), "10"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{n}: {answer}");
        // Had it closed while the next request was on its way, nobody could tell whether that one ran.
        eventually("the end of the connection", || closed.load(SeqCst) > n);
    }
    assert_eq!(upstream.seen().len(), 20);
}

#[test]
fn answers_over_the_cap_are_streamed_and_consumed() {
    let upstream = RawUpstream::start(|mut connection| {
        while connection.request().is_some() {
            let body = "0123456789".repeat(5_000);
            connection.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    });
    let serving = serve(upstream.address, "");
    let first = ask(&serving, &pay("k1", "10"));
    let body = first.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(body, "0123456789".repeat(5_000), "nothing is lost between what was read and the rest");
    assert_eq!(header(&first, "content-length"), ["50000"]);
    let second = ask(&serving, &pay("k1", "10"));
    assert!(second.starts_with("HTTP/1.1 409 ") && second.contains("consumed"), "{second}");
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn a_truncated_answer_is_never_recorded() {
    let upstream = flaky(1, |mut connection| {
        connection.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    });
    let serving = serve(upstream.address, "");
    let first = ask(&serving, &pay("k1", "10"));
    assert!(first.starts_with("HTTP/1.1 504 "), "{first}");
    let second = ask(&serving, &pay("k1", "10"));
    assert!(second.starts_with("HTTP/1.1 409 "), "{second}");
}

#[test]
fn a_caller_that_hangs_up_does_not_cancel_its_effect() {
    let (go, gone) = std::sync::mpsc::sync_channel::<()>(1);
    let gone = std::sync::Mutex::new(gone);
    let upstream = RawUpstream::start(move |mut connection| {
        connection.request();
        gone.lock().unwrap().recv().unwrap();
        connection.say(OK);
        connection.closed();
    });
    let serving = serve(upstream.address, "");
    let mut caller = Caller::connect(serving.address());
    caller.send(&pay("k1", "10"));
    eventually("the request", || upstream.seen().len() == 1);
    drop(caller);
    eventually("the hang-up", || serving.connections() == 0);
    go.send(()).unwrap();
    let answer = ask(&serving, &pay("k1", "10"));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(header(&answer, "idempotent-replayed"), ["true"]);
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn a_drain_waits_for_effects() {
    let (go, gone) = std::sync::mpsc::sync_channel::<()>(1);
    let gone = std::sync::Mutex::new(gone);
    let upstream = RawUpstream::start(move |mut connection| {
        connection.request();
        gone.lock().unwrap().recv().unwrap();
        connection.say(OK);
        connection.closed();
    });
    let serving = serve(upstream.address, "");
    let mut caller = Caller::connect(serving.address());
    caller.send(&pay("k1", "10"));
    eventually("the request", || upstream.seen().len() == 1);
    drop(caller);
    serving.drain();
    let stopping = std::thread::spawn(move || serving.stop());
    assert!(!stopping.is_finished());
    go.send(()).unwrap();
    assert!(stopping.join().unwrap());
}

#[test]
fn bodies_are_bounded_alone_and_together() {
    let (go, gone) = std::sync::mpsc::sync_channel::<()>(3);
    let gone = std::sync::Mutex::new(gone);
    let upstream = RawUpstream::start(move |mut connection| {
        while let Some(request) = connection.request() {
            if request.starts_with("PUT") {
                gone.lock().unwrap().recv().unwrap();
            }
            connection.say(OK);
        }
    });
    let serving = serve(upstream.address, "[limits]\nbody = \"2KiB\"\nbuffered = \"2KiB\"");
    let put = format!("PUT /items/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000));
    let mut held: Vec<_> = (0..2).map(|_| Caller::connect(serving.address())).collect();
    for caller in &mut held {
        caller.send(&put);
    }
    eventually("the requests", || upstream.seen().len() == 2);
    let refused = ask(&serving, &put);
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("reduced-capacity"), "{refused}");
    (0..2).for_each(|_| go.send(()).unwrap());
    for caller in &mut held {
        assert!(caller.answer().starts_with("HTTP/1.1 200 "));
    }
    go.send(()).unwrap();
    assert!(ask(&serving, &put).starts_with("HTTP/1.1 200 "), "room is given back");

    // Streamed bodies take no memory, but have a bound of their own.
    let large = "x".repeat(3_000);
    let announced = format!("POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n{large}");
    assert!(ask(&serving, &announced).starts_with("HTTP/1.1 413 "));
    let whole = upstream.seen().len();
    let chunked =
        format!("POST /hook HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nbb8\r\n{large}\r\n0\r\n\r\n");
    let refused = ask(&serving, &chunked);
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
    assert_eq!(upstream.seen().len(), whole, "no whole request reached the upstream");
}

#[test]
fn everything_is_counted() {
    let upstream = flaky(1, drop);
    let serving = serve(upstream.address, "");
    ask(&serving, &get("/items/1"));
    ask(&serving, &pay("k1", "10"));
    ask(&serving, &pay("k1", "10"));
    ask(&serving, "POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    ask(&serving, &get("/nowhere"));
    let mut registry = prometheus_client::registry::Registry::default();
    registry.register_collector(Box::new(Arc::clone(serving.metrics())));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "semel_requests_total{route=\"POST /pay\",outcome=\"executed\"} 1",
        "semel_requests_total{route=\"POST /pay\",outcome=\"replayed\"} 1",
        "semel_requests_total{route=\"GET /items/{id}\",outcome=\"passed\"} 1",
        "semel_requests_total{route=\"POST /hook\",outcome=\"passed\"} 1",
        "semel_requests_total{route=\"unmatched\",outcome=\"refused\"} 1",
        "semel_attempts_total{route=\"GET /items/{id}\",end=\"lost-connection\"} 1",
        "semel_attempts_total{route=\"GET /items/{id}\",end=\"answered\"} 1",
        "semel_attempts_total{route=\"POST /pay\",end=\"answered\"} 1",
        "semel_responses_total{route=\"POST /pay\",status=\"2xx\"} 2",
        "semel_stage_seconds_count{route=\"POST /pay\",stage=\"claim\"} 1",
        "semel_stage_seconds_count{route=\"POST /pay\",stage=\"total\"} 2",
        "semel_requests_in_flight{route=\"POST /pay\"} 0",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[test]
fn a_port_is_not_shared_with_another_gateway() {
    let upstream = flaky(0, drop);
    let serving = serve(upstream.address, "");
    let second = Listener::bind(ListenerSettings::new(serving.address()));
    let refused = second.expect_err("somebody listens there already");
    assert_eq!(refused.source.kind(), std::io::ErrorKind::AddrInUse);
}
