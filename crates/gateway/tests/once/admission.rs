//! Only so many calls at a time, and what is more is told so early.

use crate::support::{Call, Fate, Gate, Gateway, Hold, Op, Upstream, eventually, post, route};

/// `POST /pay` happens once, `GET /read` is repeatable, `POST /pass` passes; one call at a time goes upstream.
fn narrow(upstream: &Upstream, wait: &str) -> Gateway {
    let routes = format!(
        "{}{}{}",
        route("POST /pay", "once", "idempotency = { principal = \"none\" }"),
        route("GET /read", "read", ""),
        route("POST /pass", "forward", "priority = \"high\""),
    );
    Gateway::before(&[upstream], &format!("admission = {{ limit = 1, wait = \"{wait}\" }}"), &routes)
}

fn held(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |_, wire| {
        wire.wait(&gate).answer(201, &[], "done");
    })
}

#[test]
fn what_finds_no_place_is_refused_before_its_claim_and_replays_are_not() {
    let gate = Gate::default();
    let upstream = held(&gate);
    let gateway = narrow(&upstream, "0s");
    let mut first = gateway.send(&post("/pay").key("k1"));
    eventually("the first call at the upstream", || upstream.count() == 1);
    for call in [post("/pay").key("k2"), Call::new("GET", "/read"), post("/pass")] {
        let refused = gateway.call(&call);
        refused.refused(503, "reduced-capacity");
        assert_eq!(refused.header("semel-effect"), Some("none"));
        assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    }
    assert_eq!(gateway.live().len(), 1, "only the first has claimed");
    gate.open();
    first.answer().said(201, "done", "committed");
    gateway.quiet();
    // The refusal burnt nothing, and a replay needs no place.
    let second = gateway.call(&post("/pay").key("k2"));
    second.said(201, "done", "committed").is_replay(false);
    gateway.call(&post("/pay").key("k1")).said(201, "done", "committed").is_replay(true);
    assert_eq!(upstream.count(), 2);
}

/// Of a crowd on one key one goes upstream: the others wait for its answer, not in its upstream's places.
#[test]
fn those_who_lose_the_race_for_a_key_give_their_places_back() {
    let gate = Gate::default();
    let upstream = held(&gate);
    let routes = route("POST /pay", "once", "idempotency = { principal = \"none\" }");
    let gateway = Gateway::before(&[&upstream], "admission = { limit = 2, wait = \"0s\" }", &routes);
    let hold = Hold::new();
    gateway.ledger.all(&[Op::Claim], Fate::Waits(hold.clone()));
    let mut racing: Vec<_> = (0..2).map(|_| gateway.send(&post("/pay").key("k1"))).collect();
    gateway.ledger.wait_for(Op::Claim, 2);
    gateway.ledger.plan(|_| Fate::Good);
    hold.let_go();
    eventually("one is at the upstream", || upstream.count() == 1);
    eventually("the other's place is free", || gateway.counts("semel_admission_in_flight{upstream=\"up\"} 1\n"));
    gate.open();
    let replays = racing.iter_mut().filter_map(|caller| {
        let answer = caller.answer();
        assert_eq!(answer.status(), 201);
        answer.header("idempotent-replayed").map(str::to_owned)
    });
    assert_eq!(replays.count(), 1);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_call_waits_for_its_place() {
    let gate = Gate::default();
    let upstream = held(&gate);
    let gateway = narrow(&upstream, "10s");
    let mut first = gateway.send(&post("/pay").key("k1"));
    eventually("the first call at the upstream", || upstream.count() == 1);
    let mut second = gateway.send(&post("/pay").key("k2"));
    eventually("the second call in the queue", || gateway.counts("semel_admission_queued{upstream=\"up\"} 1\n"));
    assert_eq!((upstream.count(), gateway.live().len()), (1, 1));
    gate.open();
    first.answer().said(201, "done", "committed");
    second.answer().said(201, "done", "committed");
}

/// What matters more goes first, however late it came.
#[test]
fn of_those_who_wait_the_ones_that_matter_go_first() {
    let gate = Gate::default();
    let upstream = held(&gate);
    let of = |priority| route(&format!("POST /{priority}"), "forward", &format!("priority = \"{priority}\""));
    let routes: String = ["low", "very-high"].map(of).concat();
    let gateway = Gateway::before(&[&upstream], "admission = { limit = 1, wait = \"10s\" }", &routes);
    let mut callers = vec![gateway.send(&post("/low"))];
    eventually("the first call at the upstream", || upstream.count() == 1);
    for (waiting, path) in [(1, "/low"), (2, "/very-high")] {
        callers.push(gateway.send(&post(path)));
        let queued = format!("semel_admission_queued{{upstream=\"up\"}} {waiting}\n");
        eventually("the call in the queue", || gateway.counts(&queued));
    }
    gate.open();
    callers.iter_mut().for_each(|caller| assert_eq!(caller.answer().status(), 201));
    let arrivals = upstream.arrivals();
    let paths: Vec<_> = arrivals.iter().map(|arrival| arrival.message.start.split(' ').nth(1).unwrap()).collect();
    assert_eq!(paths, ["/low", "/very-high", "/low"]);
}

#[test]
fn a_caller_that_hangs_up_leaves_the_queue() {
    let gate = Gate::default();
    let upstream = held(&gate);
    let gateway = narrow(&upstream, "10s");
    let mut first = gateway.send(&post("/pay").key("k1"));
    eventually("the first call at the upstream", || upstream.count() == 1);
    let second = gateway.send(&post("/pay").key("k2"));
    eventually("the second call in the queue", || gateway.counts("semel_admission_queued{upstream=\"up\"} 1\n"));
    drop(second);
    eventually("an empty queue", || gateway.counts("semel_admission_queued{upstream=\"up\"} 0\n"));
    gate.open();
    first.answer().said(201, "done", "committed");
    gateway.quiet();
    assert_eq!(upstream.count(), 1, "nobody waits for the second any more");
}

/// A call counts until its answer has ended, not only until it begins.
#[test]
fn a_streamed_answer_keeps_its_place_until_its_end() {
    let gate = Gate::default();
    let upstream = {
        let gate = gate.clone();
        Upstream::start(move |_, wire| {
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none").wait(&gate).say("two");
        })
    };
    let gateway = narrow(&upstream, "0s");
    let mut first = gateway.send(&Call::new("GET", "/read"));
    assert_eq!(first.head().status(), 200);
    gateway.call(&post("/pass")).refused(503, "reduced-capacity");
    gate.open();
    eventually("the place is free", || gateway.counts("semel_admission_in_flight{upstream=\"up\"} 0\n"));
    assert_eq!(gateway.call(&post("/pass")).status(), 200);
}

#[test]
fn attempts_that_would_be_refused_are_not_made() {
    let upstream = Upstream::start(|_, wire| {
        wire.answer(503, &[], "no");
    });
    let routes = route("POST /pass", "forward", "");
    let gateway = Gateway::before(&[&upstream], "throttle = { min_calls = 5, max_refused = \"80%\" }", &routes);
    let answers: Vec<_> = (0..200).map(|_| gateway.call(&post("/pass"))).collect();
    let refused = answers.iter().filter(|answer| answer.header("semel-effect") == Some("none")).count();
    assert_eq!(upstream.count() + refused, 200);
    // Four in five once it is known; binomial, and far from either end.
    assert!((110..195).contains(&refused), "{refused}");
}
