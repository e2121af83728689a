//! Asking a status resource what became of an effect.

use crate::support::{Gate, Gateway, Upstream, Wire, post};

/// Loses the first effect's answer; what the status resource says is `status`.
fn losing(status: impl Fn(&mut Wire<'_>) + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |arrival, wire| match arrival.number {
        0 => wire.close(),
        _ if arrival.message.start.starts_with("GET /status/") => status(wire),
        _ => {
            wire.answer(201, &[], "ran");
        }
    })
}

fn probing(upstream: &Upstream) -> Gateway {
    let url = format!("http://{}/status/{{key}}", upstream.address);
    Gateway::once(upstream, &format!("principal = \"none\", on_unknown = \"probe\", probe = {{ url = \"{url}\" }}"))
}

#[test]
fn committed_settles_it() {
    let upstream = losing(|wire| {
        wire.answer(200, &[("semel-effect", "committed"), ("location", "/1")], "it ran");
    });
    let gateway = probing(&upstream);
    let first = gateway.call(&post("/pay").key("k"));
    first.refused(504, "outcome-unknown");
    assert_eq!((first.header("x-should-retry"), first.header("retry-after")), (Some("true"), Some("1")));
    for _ in 0..2 {
        let again = gateway.call(&post("/pay").key("k"));
        again.said(200, "it ran", "committed").is_replay(true);
        assert_eq!(again.header("location"), Some("/1"));
    }
    let arrivals = upstream.arrivals();
    assert_eq!(arrivals.len(), 2);
    // The key as the upstream knows it, in a segment of its own.
    let escaped = arrivals[0].key().replace('-', "%2D");
    assert_eq!(arrivals[1].message.start, format!("GET /status/{escaped} HTTP/1.1"));
}

#[test]
fn none_is_a_promise_and_frees_the_key() {
    let upstream = losing(|wire| {
        wire.answer(404, &[("semel-effect", "none")], "fenced");
    });
    let gateway = probing(&upstream);
    gateway.call(&post("/pay").key("k")).refused(504, "outcome-unknown");
    gateway.call(&post("/pay").key("k")).said(201, "ran", "committed").is_replay(false);
    assert_eq!(upstream.count(), 3);
}

#[test]
fn anything_else_leaves_it_unknown() {
    // Each connection ends with its answer and says so, so that every question is one more arrival.
    const LAST: (&str, &str) = ("connection", "close");
    let words: [fn(&mut Wire<'_>); 7] = [
        |wire| wire.answer(404, &[LAST], "no such key").close(),
        |wire| wire.answer(200, &[LAST], "fine").close(),
        |wire| wire.answer(200, &[LAST, ("semel-effect", "unknown")], "").close(),
        |wire| wire.answer(200, &[LAST, ("semel-effect", "open")], "").close(),
        |wire| wire.answer(302, &[LAST, ("location", "/elsewhere"), ("semel-effect", "maybe")], "").close(),
        |wire| wire.say("HTTP/1.1 200 OK\r\nSemel-Effect: committed\r\nContent-Length: 9\r\n\r\ncut").close(),
        |wire| wire.close(),
    ];
    for word in words {
        let upstream = losing(word);
        let gateway = probing(&upstream);
        gateway.call(&post("/pay").key("k")).refused(504, "outcome-unknown");
        for _ in 0..2 {
            gateway.call(&post("/pay").key("k")).refused(409, "outcome-unknown");
        }
        assert_eq!(upstream.count(), 3, "it was run, or a redirect followed");
    }
}

#[test]
fn one_question_at_a_time() {
    let gate = Gate::default();
    let shut = gate.clone();
    let upstream = losing(move |wire| {
        wire.wait(&shut).answer(200, &[("semel-effect", "committed")], "it ran");
    });
    let gateway = probing(&upstream);
    gateway.call(&post("/pay").key("k")).refused(504, "outcome-unknown");
    let mut asking = gateway.send(&post("/pay").key("k"));
    upstream.wait_for(2);
    gateway.call(&post("/pay").key("k")).refused(409, "outcome-unknown");
    gate.open();
    asking.answer().said(200, "it ran", "committed");
    assert_eq!(upstream.count(), 2);
}
