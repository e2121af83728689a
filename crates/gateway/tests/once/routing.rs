//! Which route a request takes, and what its method means there.

use crate::support::{Call, Gateway, PLAIN, Upstream, post, route};

/// Closes without a word twice, then answers.
fn losing() -> Upstream {
    Upstream::start(|arrival, wire| {
        if arrival.number < 2 {
            wire.close();
        } else {
            wire.answer(200, &[], "done");
        }
    })
}

const QUICK: &str = r#"retry = { attempts = 3, backoff = "1ms..2ms" }"#;

#[test]
fn the_most_specific_route_wins() {
    let upstream = Upstream::executing();
    let routes = [
        route("* /{*rest}", "forward", ""),
        route("POST /pay/{id}", "once", &format!("idempotency = {{ {PLAIN} }}")),
        route("POST /pay/free", "forward", ""),
    ];
    let gateway = Gateway::of(upstream.address, &routes.concat());
    gateway.call(&post("/pay/7")).refused(400, "key-missing");
    assert_eq!(gateway.call(&post("/pay/free")).status(), 201);
    assert_eq!(gateway.call(&post("/pay/7/more")).status(), 201);
    assert_eq!(gateway.call(&Call::new("GET", "/pay/7")).status(), 201);
}

#[test]
fn what_has_no_route_is_refused() {
    let upstream = Upstream::executing();
    let routes = [route("POST /pay", "once", &format!("idempotency = {{ {PLAIN} }}")), route("GET /pay", "read", "")];
    let gateway = Gateway::of(upstream.address, &routes.concat());
    gateway.call(&post("/other").key("k")).refused(404, "route-not-found");
    gateway.call(&post("/pay/").key("k")).refused(404, "route-not-found");
    let answer = gateway.call(&Call::new("DELETE", "/pay"));
    answer.refused(405, "method-not-allowed");
    let mut allowed: Vec<_> = answer.header("allow").unwrap().split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "POST"]);
    for path in ["//pay", "/../pay", "/%2e%2e/pay", "/a%2Fb", "/pay%00"] {
        gateway.call(&post(path).key("k")).refused(400, "request-malformed");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn options_pass_without_a_key() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, PLAIN);
    let answer = gateway.call(&Call::new("OPTIONS", "/pay"));
    assert_eq!((answer.status(), answer.header("semel-effect")), (201, None));
    assert_eq!(upstream.arrivals()[0].message.start, "OPTIONS /pay HTTP/1.1");
}

#[test]
fn put_and_delete_are_repeated_without_a_ledger() {
    for method in ["PUT", "DELETE"] {
        let upstream = losing();
        let gateway = Gateway::of(upstream.address, &route("PUT,DELETE /thing", "idempotent", QUICK));
        let answer = gateway.call(&Call::new(method, "/thing").body("{}").key("passes"));
        assert_eq!((answer.status(), answer.body.as_str()), (200, "done"));
        let marks: Vec<_> = upstream.arrivals().iter().map(|a| a.header("semel-attempt").unwrap().to_owned()).collect();
        assert_eq!(marks, ["1/3", "2/3", "3/3"]);
        assert!(upstream.arrivals().iter().all(|arrival| arrival.message.body == "{}" && arrival.key() == "passes"));
        assert_eq!(gateway.ledger.asked(crate::support::Op::LookUp), 0);
    }
}

#[test]
fn on_an_optional_route_a_post_without_a_key_is_sent_once() {
    let upstream = losing();
    let gateway = Gateway::route(&upstream, &format!("{QUICK}\nidempotency = {{ {PLAIN}, required = false }}"));
    let answer = gateway.call(&post("/pay"));
    answer.refused(502, "upstream-failed");
    assert_eq!(answer.header("semel-effect"), Some("unknown"));
    assert_eq!((upstream.count(), gateway.ledger.asked(crate::support::Op::LookUp)), (1, 0));
}

#[test]
fn on_an_optional_route_a_put_without_a_key_is_repeated() {
    for values in ["", r#", key = "json:/id""#] {
        let upstream = losing();
        let values = format!("{QUICK}\nidempotency = {{ {PLAIN}, required = false{values} }}");
        let gateway = Gateway::of(upstream.address, &route("POST,PUT /pay", "once", &values));
        let answer = gateway.call(&Call::new("PUT", "/pay").header("content-type", "application/json").body("{}"));
        assert_eq!((answer.status(), answer.body.as_str()), (200, "done"));
        assert_eq!((upstream.count(), gateway.ledger.asked(crate::support::Op::LookUp)), (3, 0));
    }
}

/// What is no effect is not buffered: uploads of any size pass.
#[test]
fn on_an_optional_route_a_large_upload_without_a_key_streams() {
    let upstream = Upstream::executing();
    let values = format!("body = {{ request_cap = \"1KiB\" }}\nidempotency = {{ {PLAIN}, required = false }}");
    let gateway = Gateway::route(&upstream, &values);
    let upload = "x".repeat(100_000);
    assert_eq!(gateway.call(&post("/pay").body(&upload)).status(), 201);
    assert_eq!(upstream.arrivals()[0].message.body.len(), upload.len());
    gateway.call(&post("/pay").key("k").body(&upload)).refused(413, "body-too-large");
}

#[test]
fn reads_are_repeated_and_stream() {
    let upstream = losing();
    let gateway = Gateway::of(upstream.address, &route("GET,POST /search", "read", QUICK));
    let answer = gateway.call(&Call::new("GET", "/search?q=1"));
    assert_eq!((answer.status(), answer.body.as_str(), upstream.count()), (200, "done", 3));
    assert_eq!(upstream.arrivals()[2].message.start, "GET /search?q=1 HTTP/1.1");
    // Too large to keep: streamed, and so sent once.
    let upstream = losing();
    let gateway = Gateway::of(upstream.address, &route("POST /search", "read", QUICK));
    let answer = gateway.call(&post("/search").body(&"x".repeat((1 << 20) + 1)));
    assert_eq!((answer.status(), upstream.count()), (502, 1));
}

#[test]
fn forwarded_requests_are_never_repeated() {
    let upstream = losing();
    let gateway = Gateway::of(upstream.address, &route("* /{*rest}", "forward", ""));
    let answer = gateway.call(&post("/pay").key("k"));
    assert_eq!((answer.status(), upstream.count()), (502, 1));
    assert_eq!(upstream.arrivals()[0].key(), "k");
}
