//! The `forward` path: what goes in comes out, in both directions, at the pace of the slower side.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Gateway, PATIENCE, RawUpstream, eventually, header};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_request_and_its_answer_pass() {
    let upstream = RawUpstream::answering(
        "HTTP/1.1 201 Created\r\nContent-Length: 2\r\nLocation: /x\r\nSemel-Source: gateway\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\nok",
    );
    let gateway = Gateway::to(&upstream);
    let mut caller = gateway.caller();
    for _ in 0..2 {
        caller.send(
            "POST /pay?a=1 HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 2\r\nIdempotency-Key: k1\r\nX-Forwarded-For: 6.6.6.6\r\n\
             Connection: X-Secret\r\nX-Secret: s\r\nX-Request-Id: r-1\r\nSemel-Effect: none\r\nAccept: */*\r\n\r\n10",
        );
        let answer = caller.answer();
        assert!(answer.starts_with("HTTP/1.1 201 Created\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
        assert_eq!(header(&answer, "location"), ["/x"]);
        assert_eq!(header(&answer, "x-request-id"), ["r-1"]);
        assert_eq!(header(&answer, "semel-source"), [] as [&str; 0]);
        assert_eq!(header(&answer, "x-hop"), [] as [&str; 0]);
    }
    let seen = upstream.seen();
    assert_eq!((seen.len(), upstream.accepted()), (2, 1), "the connection is reused");
    let seen = &seen[0];
    assert!(seen.starts_with("POST /pay?a=1 HTTP/1.1\r\n") && seen.ends_with("\r\n\r\n10"), "{seen}");
    for (name, value) in [
        ("host", "shop.example"),
        ("content-length", "2"),
        ("idempotency-key", "k1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-proto", "http"),
        ("forwarded", "for=127.0.0.1;host=\"shop.example\";proto=http"),
        ("via", "1.1 semel"),
        ("x-request-id", "r-1"),
        ("accept", "*/*"),
    ] {
        assert_eq!(header(seen, name), [value], "{name} in {seen}");
    }
    assert_eq!(header(seen, "traceparent").len(), 1);
    for gone in ["connection", "x-secret", "semel-effect", "transfer-encoding"] {
        assert_eq!(header(seen, gone), [] as [&str; 0], "{gone}");
    }
}

#[test]
fn chunked_bodies_and_trailers_pass_both_ways() {
    let upstream = RawUpstream::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: up\r\n\r\n",
    );
    let gateway = Gateway::to(&upstream);
    let mut caller = gateway.caller();
    caller.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nTE: trailers\r\nConnection: TE\r\n\r\n\
         2;ext=1\r\nhi\r\n0\r\nX-Sum: down\r\nContent-Length: 99\r\n\r\n",
    );
    let answer = caller.answer();
    assert_eq!(header(&answer, "transfer-encoding"), ["chunked"]);
    assert!(answer.ends_with("3\r\nabc\r\n0\r\nx-sum: up\r\n\r\n"), "{answer}");
    let seen = upstream.seen().remove(0);
    assert_eq!(header(&seen, "transfer-encoding"), ["chunked"]);
    assert_eq!(header(&seen, "te"), ["trailers"]);
    assert!(seen.ends_with("\r\n\r\n2\r\nhi\r\n0\r\nx-sum: down\r\n\r\n"), "{seen}");
}

#[test]
fn a_get_with_a_body_keeps_it() {
    let upstream = RawUpstream::answering(OK);
    let gateway = Gateway::to(&upstream);
    gateway
        .caller()
        .send("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        .answer();
    assert!(upstream.seen()[0].ends_with("2\r\nhi\r\n0\r\n\r\n"), "{:?}", upstream.seen());
}

#[test]
fn answers_without_bodies() {
    let upstream = RawUpstream::start(|mut connection| {
        while let Some(request) = connection.request() {
            connection.say(match request.split(' ').nth(1).unwrap() {
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
            });
        }
    });
    let gateway = Gateway::to(&upstream);
    let mut caller = gateway.caller();
    caller.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(header(&caller.head(), "content-length"), ["1234"]);
    caller.send("GET /204 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(caller.head().starts_with("HTTP/1.1 204 "));
    caller.send("GET /304 HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = caller.head();
    assert!(head.starts_with("HTTP/1.1 304 "));
    assert_eq!(header(&head, "etag"), ["\"e\""]);
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = RawUpstream::start(|mut connection| {
        while let Some(request) = connection.request() {
            let path = request.split(' ').nth(1).unwrap();
            connection.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()));
        }
    });
    let gateway = Gateway::to(&upstream);
    let mut caller = gateway.caller();
    caller.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
    for path in ["/1", "/2", "/3"] {
        assert!(caller.answer().ends_with(path));
    }
}

#[test]
fn options_pass_and_upgrades_are_refused() {
    let upstream = RawUpstream::answering(OK);
    let gateway = Gateway::to(&upstream);
    let mut caller = gateway.caller();
    assert!(caller.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").answer().starts_with("HTTP/1.1 200 "));
    assert!(
        caller.send("OPTIONS /x HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n\r\n").answer().starts_with("HTTP/1.1 200 ")
    );
    let seen = upstream.seen();
    assert!(seen[0].starts_with("OPTIONS * HTTP/1.1\r\n") && seen[1].starts_with("OPTIONS /x HTTP/1.1\r\n"));
    let answer =
        caller.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n").answer();
    assert!(answer.starts_with("HTTP/1.1 501 ") && answer.contains("upgrade-unsupported"), "{answer}");
    let answer = gateway.caller().send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n").answer();
    assert!(answer.starts_with("HTTP/1.1 200 "), "an h2c offer may be ignored: {answer}");
    let last = upstream.seen().pop().unwrap();
    assert!(!last.contains("upgrade") && !last.contains("http2-settings"), "{last}");
    let answer = gateway.caller().send("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").answer();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn continue_is_said_when_the_upstream_says_it() {
    let told = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&told);
    let upstream = RawUpstream::start(move |mut connection| {
        let head = connection.head().unwrap();
        assert!(head.contains("expect: 100-continue"), "{head}");
        tell.store(true, Ordering::SeqCst);
        connection.say("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
        let mut body = [0; 2];
        connection.stream.read_exact(&mut body).unwrap();
        connection.say(OK);
        connection.closed();
    });
    let gateway = Gateway::with(&upstream, |_, upstream| upstream.continue_timeout = PATIENCE);
    let mut caller = gateway.caller();
    caller.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(caller.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(told.load(Ordering::SeqCst));
    assert!(caller.send("10").answer().starts_with("HTTP/1.1 200 "));
}

#[test]
fn an_upstream_that_refuses_at_once_spares_the_body() {
    let upstream = RawUpstream::start(|mut connection| {
        connection.head();
        connection.say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno");
        connection.closed();
    });
    let gateway = Gateway::with(&upstream, |_, upstream| upstream.continue_timeout = PATIENCE);
    let mut caller = gateway.caller();
    caller.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    let answer = caller.answer();
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.ends_with("no"), "{answer}");
    assert_eq!(caller.rest(), "", "the unread body ends the connection");
}

#[test]
fn an_upstream_that_ignores_expect_gets_the_body_anyway() {
    let upstream = RawUpstream::answering(OK);
    let gateway = Gateway::with(&upstream, |_, upstream| upstream.continue_timeout = Duration::from_millis(50));
    let mut caller = gateway.caller();
    caller.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(caller.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(caller.send("10").answer().starts_with("HTTP/1.1 200 "));
    let answer =
        gateway.caller().send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 0\r\n\r\n").answer();
    assert!(answer.starts_with("HTTP/1.1 417 "), "{answer}");
}

#[test]
fn http_1_0_callers_are_served() {
    let upstream = RawUpstream::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    let gateway = Gateway::to(&upstream);
    let mut caller = gateway.caller();
    caller.send("GET / HTTP/1.0\r\n\r\n");
    let answer = caller.rest();
    assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\nok"), "{answer}");
    let seen = upstream.seen().remove(0);
    assert!(seen.starts_with("GET / HTTP/1.1\r\n"), "{seen}");
    assert_eq!(header(&seen, "host"), [upstream.address.to_string()]);
}

#[test]
fn a_truncated_answer_is_not_passed_off_as_whole() {
    for (head, part) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "short"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nshort\r\n"),
    ] {
        let (go, gone) = std::sync::mpsc::sync_channel::<()>(1);
        let gone = std::sync::Mutex::new(gone);
        let upstream = RawUpstream::start(move |mut connection| {
            connection.request();
            connection.say(head);
            connection.say(part);
            gone.lock().unwrap().recv().unwrap();
        });
        let gateway = Gateway::to(&upstream);
        let mut caller = gateway.caller();
        caller.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(caller.head().starts_with("HTTP/1.1 200 "));
        assert_eq!(caller.exactly(part.len()), part);
        go.send(()).unwrap();
        assert_eq!(caller.rest(), "", "no last chunk, no more bytes: the connection just ends");
    }
}

#[test]
fn failures_say_whether_repeating_is_safe() {
    let closed = RawUpstream::start(|mut connection| drop(connection.request()));
    let gateway = Gateway::to(&closed);
    let answer = gateway.caller().send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").answer();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(header(&answer, "semel-effect"), ["unknown"]);
    assert_eq!(header(&answer, "x-should-retry"), ["false"]);
    assert_eq!(header(&answer, "semel-source"), ["gateway"]);
    let gateway = Gateway::with(&closed, |_, settings| {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        settings.endpoints = vec![nobody.into()];
    });
    let answer = gateway.caller().send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").answer();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(header(&answer, "semel-effect"), ["none"]);
    assert_eq!(header(&answer, "content-type"), ["application/problem+json"]);
}

/// More than all socket buffers between two ends on this machine together can hold.
const FLOOD_BYTES: usize = 64 << 20;

#[test]
fn a_slow_reader_stops_the_upstream() {
    let written = Arc::new(AtomicUsize::new(0));
    let stalled = Arc::new(AtomicBool::new(false));
    let (count, stall) = (Arc::clone(&written), Arc::clone(&stalled));
    let upstream = RawUpstream::start(move |mut connection| {
        connection.request();
        connection.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {FLOOD_BYTES}\r\n\r\n"));
        connection.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let piece = [b'x'; 64 * 1024];
        while count.load(Ordering::SeqCst) < FLOOD_BYTES {
            match connection.stream.write(&piece) {
                Ok(n) => drop(count.fetch_add(n, Ordering::SeqCst)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => stall.store(true, Ordering::SeqCst),
                Err(_) => return,
            }
        }
        connection.closed();
    });
    let gateway = Gateway::to(&upstream);
    let mut caller = gateway.caller();
    caller.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the upstream's stall", || stalled.load(Ordering::SeqCst));
    assert!(written.load(Ordering::SeqCst) < FLOOD_BYTES / 2, "{} bytes were taken", written.load(Ordering::SeqCst));
    // And it all comes through once the caller reads.
    let body = caller.answer();
    assert_eq!(body.len() - body.find("\r\n\r\n").unwrap() - 4, FLOOD_BYTES);
}

#[test]
fn a_slow_upstream_stops_the_caller() {
    let upstream = RawUpstream::start(|mut connection| {
        connection.head();
        // Does not read the body until the caller has given up.
        std::mem::forget(connection.stream);
    });
    let gateway = Gateway::to(&upstream);
    let mut caller = gateway.caller();
    caller.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {FLOOD_BYTES}\r\n\r\n"));
    caller.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let piece = [b'x'; 64 * 1024];
    let mut sent = 0;
    while let Ok(n) = caller.stream.write(&piece) {
        sent += n;
        assert!(sent < FLOOD_BYTES / 2, "{sent} bytes were taken");
    }
}

#[test]
fn an_early_answer_overtakes_its_request() {
    let upstream = RawUpstream::start(|mut connection| {
        connection.head();
        connection.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n");
        // The answer goes on only when the whole body is here.
        let mut body = vec![0; 1 << 20];
        connection.stream.read_exact(&mut body).unwrap();
        connection.say("3\r\nbye\r\n0\r\n\r\n");
        connection.closed();
    });
    let gateway = Gateway::to(&upstream);
    let mut caller = gateway.caller();
    caller.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 1 << 20));
    assert!(caller.head().starts_with("HTTP/1.1 200 "));
    caller.send(&"x".repeat(1 << 20));
    let rest = "2\r\nhi\r\n3\r\nbye\r\n0\r\n\r\n";
    assert_eq!(caller.exactly(rest.len()), rest);
}

#[test]
fn a_caller_that_hangs_up_cancels() {
    let closed = Arc::new(AtomicBool::new(false));
    let arrived = Arc::new(AtomicBool::new(false));
    let (close, arrive) = (Arc::clone(&closed), Arc::clone(&arrived));
    let upstream = RawUpstream::start(move |mut connection| {
        connection.request();
        arrive.store(true, Ordering::SeqCst);
        close.store(connection.closed(), Ordering::SeqCst);
    });
    let gateway = Gateway::to(&upstream);
    let mut caller = gateway.caller();
    caller.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request", || arrived.load(Ordering::SeqCst));
    drop(caller);
    eventually("the upstream's connection closing", || closed.load(Ordering::SeqCst));
}

#[test]
fn an_upload_that_breaks_off_is_never_made_whole() {
    let whole = Arc::new(AtomicBool::new(false));
    let ended = Arc::new(AtomicBool::new(false));
    let (is_whole, end) = (Arc::clone(&whole), Arc::clone(&ended));
    let upstream = RawUpstream::start(move |mut connection| {
        is_whole.store(connection.request().is_some(), Ordering::SeqCst);
        end.store(true, Ordering::SeqCst);
    });
    let gateway = Gateway::to(&upstream);
    let mut caller = gateway.caller();
    caller.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    eventually("the upstream's connection", || upstream.accepted() == 1);
    drop(caller);
    eventually("the end", || ended.load(Ordering::SeqCst));
    assert!(!whole.load(Ordering::SeqCst), "no last chunk may be sent for a body that broke off");
}
