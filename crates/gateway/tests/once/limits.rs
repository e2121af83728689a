//! Bounds on bodies, whatever a route does with them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::{Gateway, TestLedger, Upstream, config, eventually, post, route};

fn limited(upstream: &Upstream, limits: &str, route: &str) -> Gateway {
    let toml = config(upstream.address, route).replace("drain_timeout", &format!("{limits}, drain_timeout"));
    Gateway::over(TestLedger::new(), &toml)
}

#[test]
fn a_streamed_body_over_the_limit_is_refused_before_it_is_sent() {
    let upstream = Upstream::executing();
    let route = route("POST /pass", "forward", "body = { request_cap = \"1KiB\" }");
    let gateway = limited(&upstream, "body = \"1MiB\"", &route);
    gateway.call(&post("/pass").body(&"x".repeat(2000))).refused(413, "body-too-large");
    assert_eq!(upstream.count(), 0, "nothing was sent");
    assert_eq!(gateway.call(&post("/pass").body(&"x".repeat(1000))).status(), 201);
}

#[test]
fn bodies_in_memory_are_bounded_and_the_memory_is_given_back() {
    let upstream = Upstream::executing();
    let values = "body = { request_cap = \"64KiB\" }\nidempotency = { principal = \"none\", response_cap = \"64KiB\" }";
    let gateway = limited(&upstream, "buffered = \"64KiB\"", &route("POST /pay", "once", values));
    let body = "x".repeat(60 * 1024);
    // A caller that announces a body and does not send it holds the room for it.
    let mut slow = TcpStream::connect(gateway.address()).unwrap();
    let head = "POST /pay HTTP/1.1\r\nHost: shop.example\r\nIdempotency-Key: slow\r\nContent-Length: 61440\r\n\
                Expect: 100-continue\r\n\r\n";
    slow.write_all(head.as_bytes()).unwrap();
    // Who is asked for its body has the room for it.
    let mut go_on = [0; 25];
    slow.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let answer = gateway.call(&post("/pay").key("other").body(&body));
    assert_eq!(answer.refused(503, "reduced-capacity").header("semel-effect"), Some("none"));
    drop(slow);
    eventually("room again", || gateway.call(&post("/pay").key("another").body(&body)).status() == 201);
}
