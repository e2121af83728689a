//! Bounds: time, size, connections, and an orderly end.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Gateway, PATIENCE, RawUpstream, eventually, header};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SHORT: Duration = Duration::from_millis(100);

fn gateway(change: impl FnOnce(&mut semel_gateway::listener::ListenerSettings)) -> (RawUpstream, Gateway) {
    let upstream = RawUpstream::answering(OK);
    let gateway = Gateway::with(&upstream, |listener, _| change(listener));
    (upstream, gateway)
}

#[test]
fn slow_heads_are_cut_off() {
    let (upstream, gateway) = gateway(|settings| settings.head_timeout = SHORT);
    let mut caller = gateway.caller();
    caller.send("GET / HTTP/1.1\r\nHo");
    let answer = caller.rest();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request-timeout"), "{answer}");
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn trickled_heads_are_cut_off() {
    let (_upstream, gateway) = gateway(|settings| settings.head_timeout = SHORT);
    let mut caller = gateway.caller();
    caller.send("GET / HTTP/1.1\r\nX: ");
    while caller.stream.write_all(b"y").is_ok() {
        std::thread::yield_now();
    }
}

#[test]
fn idle_connections_are_closed_and_busy_ones_are_not() {
    let (_upstream, gateway) = gateway(|settings| settings.idle_timeout = SHORT);
    assert_eq!(gateway.caller().rest(), "", "before the first request");
    let mut caller = gateway.caller();
    assert!(caller.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().starts_with("HTTP/1.1 200 "));
    assert_eq!(caller.rest(), "", "after a request");

    let slow = RawUpstream::start(|mut connection| {
        connection.request();
        // Answers after five idle timeouts.
        connection.stream.set_read_timeout(Some(5 * SHORT)).unwrap();
        connection.closed();
        connection.say(OK);
        connection.closed();
    });
    let gateway = Gateway::with(&slow, |listener, _| listener.idle_timeout = SHORT);
    let answer = gateway.caller().send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn slow_bodies_are_cut_off() {
    let (upstream, gateway) = gateway(|settings| {
        settings.body_idle_timeout = SHORT;
        settings.bytes_per_s_min = 1_000_000;
    });
    let mut caller = gateway.caller();
    caller.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nx");
    let answer = caller.rest();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(upstream.seen().is_empty(), "no whole request came through");
    // Never silent for long, and still too slow.
    let mut caller = gateway.caller();
    caller.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    caller.stream.set_read_timeout(Some(SHORT / 10)).unwrap();
    let mut answer = [0; 12];
    while caller.stream.read_exact(&mut answer).is_err() {
        caller.send("1\r\nx\r\n");
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[test]
fn callers_who_do_not_read_are_cut_off() {
    let upstream = RawUpstream::start(|mut connection| {
        connection.request();
        connection.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40));
        let piece = "x".repeat(64 * 1024);
        while connection.say(&piece) {}
    });
    let gateway = Gateway::with(&upstream, |listener, _| {
        listener.write_idle_timeout = SHORT;
    });
    let mut caller = gateway.caller();
    caller.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the connection", || gateway.running.counts().open() == 1);
    eventually("the cut-off", || gateway.running.counts().open() == 0);
}

#[test]
fn heads_are_bounded() {
    let (upstream, gateway) = gateway(|settings| {
        settings.head_bytes_max = 16 * 1024;
        settings.headers_max = 50;
    });
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(20_000));
    let many: String = (0..60).map(|n| format!("X-{n}: y\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(20_000));
    for (bytes, status) in [(long, "431"), (many, "431"), (target, "414")] {
        let answer = gateway.caller().send(&bytes).rest();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
    }
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn connections_are_bounded_politely() {
    let (_upstream, gateway) = gateway(|settings| settings.connections_max = 2);
    let mut held: Vec<_> = (0..2).map(|_| gateway.caller()).collect();
    for caller in &mut held {
        assert!(caller.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().starts_with("HTTP/1.1 200 "));
    }
    let answer = gateway.caller().send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").rest();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: "), "{answer}");
    held.pop();
    eventually("the place", || gateway.running.counts().open() == 1);
    assert!(gateway.caller().send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().starts_with("HTTP/1.1 200 "));
}

#[test]
fn several_runtimes_share_the_port() {
    let upstream = RawUpstream::answering(OK);
    let gateway = Gateway::with(&upstream, |listener, _| listener.runtimes = 3);
    for _ in 0..30 {
        assert!(gateway.caller().send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().starts_with("HTTP/1.1 200 "));
    }
    assert!(gateway.running.stop());
}

#[test]
fn a_drain_finishes_what_was_begun() {
    let (go, gone) = std::sync::mpsc::sync_channel::<()>(1);
    let gone = std::sync::Mutex::new(gone);
    let upstream = RawUpstream::start(move |mut connection| {
        connection.request();
        gone.lock().unwrap().recv().unwrap();
        connection.say(OK);
        connection.closed();
    });
    let gateway = Gateway::to(&upstream);
    let address = gateway.running.address();
    let (mut busy, mut idle) = (gateway.caller(), gateway.caller());
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request", || upstream.seen().len() == 1);
    gateway.running.drain();
    assert_eq!(idle.rest(), "", "idle connections are closed at once");
    eventually("the end of listening", || std::net::TcpStream::connect(address).is_err());
    go.send(()).unwrap();
    let answer = busy.rest();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    assert!(gateway.running.stop());
}

#[test]
fn a_drain_is_bounded() {
    let upstream = RawUpstream::start(|mut connection| {
        connection.request();
        connection.closed();
    });
    let gateway = Gateway::with(&upstream, |listener, _| listener.drain_timeout = SHORT);
    let mut busy = gateway.caller();
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request", || upstream.seen().len() == 1);
    assert!(gateway.running.stop());
    assert_eq!(busy.rest(), "");
}

#[test]
fn a_caller_that_waits_shorter_than_the_queue_is_told_that_nothing_was_sent() {
    let held = Arc::new(AtomicBool::new(true));
    let hold = Arc::clone(&held);
    let upstream = RawUpstream::start(move |mut connection| {
        while connection.request().is_some() {
            eventually("the release", || !hold.load(Ordering::SeqCst));
            connection.say(OK);
        }
    });
    let gateway = Gateway::with(&upstream, |_, settings| {
        settings.connections_max = 1;
        settings.pool_wait = PATIENCE;
    });
    let (mut first, mut second) = (gateway.caller(), gateway.caller());
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the only connection", || upstream.accepted() == 1);
    second.send("GET / HTTP/1.1\r\nHost: a\r\nSemel-Timeout: 100\r\n\r\n");
    let answer = second.answer();
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("deadline-exceeded"), "{answer}");
    assert_eq!(header(&answer, "semel-effect"), ["none"]);
    held.store(false, Ordering::SeqCst);
    assert!(first.answer().starts_with("HTTP/1.1 200 "));
}
