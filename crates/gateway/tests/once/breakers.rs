//! Endpoints that fail are left alone, and nothing is burnt by it.

use crate::support::{Call, Gate, Gateway, Upstream, eventually, post, route};

fn paying(values: &str) -> String {
    route("POST /pay", "once", &format!("idempotency = {{ principal = \"none\" }}\n{values}"))
}

#[test]
fn an_upstream_that_keeps_failing_is_left_alone_and_no_key_is_burnt() {
    let upstream = Upstream::start(|arrival, wire| {
        if arrival.header("idempotency-key").is_some() {
            wire.answer(503, &[], "down");
        }
    });
    let routes = paying("retry = { attempts = 1 }");
    let gateway = Gateway::before(&[&upstream], "breaker = { consecutive = 3 }", &routes);
    for n in 0..3 {
        assert_eq!(gateway.call(&post("/pay").key(&format!("k{n}"))).header("semel-effect"), Some("unknown"));
    }
    let refused = gateway.call(&post("/pay").key("late"));
    refused.refused(503, "upstream-unavailable");
    assert_eq!(refused.header("semel-effect"), Some("none"));
    let seconds: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((5..=9).contains(&seconds), "{seconds}");
    assert_eq!(upstream.count(), 3, "nothing was sent");
    gateway.quiet();
    assert_eq!(gateway.live().len(), 3, "the refused key is free");
}

#[test]
fn what_passes_through_is_refused_as_well() {
    let upstream = Upstream::start(|_, wire| {
        wire.answer(500, &[], "down");
    });
    let gateway = Gateway::before(&[&upstream], "breaker = { consecutive = 2 }", &route("POST /pass", "forward", ""));
    for _ in 0..2 {
        assert_eq!(gateway.call(&post("/pass")).status(), 500);
    }
    let refused = gateway.call(&post("/pass"));
    refused.refused(503, "reduced-capacity");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(upstream.count(), 2);
}

/// Refusals that prove that nothing happened are repeated, and at another endpoint.
#[test]
fn calls_move_away_from_an_endpoint_that_refuses() {
    let sick = Upstream::start(|_, wire| {
        wire.answer(429, &[], "not me");
    });
    let well = Upstream::executing();
    let routes = paying("retry = { attempts = 2, backoff = \"1ms..1ms\" }");
    let gateway = Gateway::before(&[&sick, &well], "", &routes);
    for n in 0..20 {
        assert_eq!(gateway.call(&post("/pay").key(&format!("k{n}"))).status(), 201);
    }
    // It counts as slow by now, so few calls begin there.
    assert!(sick.count() < 10, "{} of 20", sick.count());
}

#[test]
fn an_endpoint_whose_breaker_is_open_is_not_asked() {
    let sick = Upstream::start(|_, wire| {
        wire.answer(500, &[], "down");
    });
    let well = Upstream::executing();
    let gateway = Gateway::before(
        &[&sick, &well],
        "breaker = { consecutive = 1, open = \"1h\", open_max = \"1h\" }\nbalance = { slow_start = \"0s\" }",
        &route("POST /pass", "forward", ""),
    );
    eventually("it was asked once", || gateway.call(&post("/pass")).status() == 500);
    let before = well.count();
    assert!((0..30).all(|_| gateway.call(&post("/pass")).status() == 201));
    assert_eq!((sick.count(), well.count()), (1, before + 30));
}

/// Otherwise anybody could open it for everybody.
#[test]
fn callers_in_a_hurry_open_no_breaker() {
    let gate = Gate::default();
    let upstream = {
        let gate = gate.clone();
        Upstream::start(move |arrival, wire| {
            if arrival.header("slow").is_some() {
                wire.wait(&gate);
            }
            wire.answer(200, &[], "there");
        })
    };
    let routes = format!("{}{}", route("POST /pass", "forward", ""), route("PUT /put", "idempotent", ""));
    let gateway = Gateway::before(&[&upstream], "breaker = { consecutive = 3 }", &routes);
    for call in [post("/pass"), Call::new("PUT", "/put")] {
        for _ in 0..4 {
            let hurried = call.clone().header("slow", "yes").header("semel-timeout", "20");
            assert_eq!(gateway.call(&hurried).status(), 504);
        }
        assert_eq!(gateway.call(&call).status(), 200);
    }
    gate.open();
}

/// Without a breaker too; and never the last one, however badly it does.
#[test]
fn an_endpoint_that_fails_again_and_again_is_ejected_and_the_last_one_is_not() {
    let failing = || {
        Upstream::start(|_, wire| {
            wire.answer(500, &[], "down");
        })
    };
    let upstreams = [failing(), failing()];
    let [one, other] = &upstreams;
    let gateway = Gateway::before(&[one, other], "outlier = { consecutive = 3 }", &route("POST /pass", "forward", ""));
    let is_ejected = |upstream: &&Upstream| {
        gateway.counts(&format!("endpoint=\"http://{}\",state=\"ejected\"}} 1\n", upstream.address))
    };
    eventually("one is ejected", || {
        gateway.call(&post("/pass"));
        upstreams.iter().any(|upstream| is_ejected(&upstream))
    });
    let before = upstreams.each_ref().map(Upstream::count);
    assert!((0..20).all(|_| gateway.call(&post("/pass")).status() == 500));
    let after = upstreams.each_ref().map(Upstream::count);
    let asked: Vec<_> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    assert!(asked == [20, 0] || asked == [0, 20], "{asked:?}");
    assert_eq!(upstreams.iter().filter(is_ejected).count(), 1);
}
