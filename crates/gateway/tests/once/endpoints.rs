//! Where an upstream is, and how it is: names that lead elsewhere, and endpoints that are asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::support::{Call, Gateway, Names, TestLedger, Upstream, config, eventually, load, post, route};

/// An upstream at 127.0.0.N on this port, which answers with N.
fn at(last: u8, port: u16) -> Upstream {
    let address = SocketAddr::from(([127, 0, 0, last], port));
    let mut upstream = Upstream::refusing_at(address, move |_, wire| {
        wire.answer(200, &[], &last.to_string());
    });
    upstream.listen();
    upstream
}

#[test]
fn a_name_leads_to_all_of_its_addresses_and_is_followed() {
    let one = at(1, 0);
    let port = one.address.port();
    let two = at(2, port);
    let names = Names::default();
    names.say("pay.internal", &[1]);
    let toml = config(one.address, &route("GET /who", "read", ""));
    let toml = toml.replace(&one.address.to_string(), &format!("pay.internal:{port}"));
    let gateway = Gateway::knowing(names.clone(), TestLedger::new(), &toml);
    let who = || gateway.call(&Call::new("GET", "/who")).body;
    eventually("the first address", || gateway.counts("http://127.0.0.1:"));
    assert_eq!(who(), "1");
    names.say("pay.internal", &[1, 2]);
    eventually("the second address", || who() == "2");
    assert!(gateway.counts(&format!("endpoint=\"http://127.0.0.2:{port}\",state=\"serving\"}} 1")));
    names.say("pay.internal", &[2]);
    eventually("only the second", || !gateway.counts("http://127.0.0.1:"));
    let before = one.count();
    assert!((0..20).all(|_| who() == "2"));
    assert_eq!(one.count(), before);
    // A name server that is down takes nobody away.
    names.say("pay.internal", &[]);
    let before = names.asked();
    eventually("it was asked in vain", || names.asked() > before);
    // A change, if there were one, would be in force within these calls.
    assert!((0..20).all(|_| who() == "2"));
    assert_eq!(two.address.port(), port);
}

#[test]
fn what_was_counted_stays_when_a_name_leads_elsewhere() {
    let one = at(1, 0);
    let port = one.address.port();
    let _two = at(2, port);
    let names = Names::default();
    names.say("pay.internal", &[1]);
    let routes = route("POST /pass", "forward", "rate = { limit = \"2/h\", by = \"everyone\" }");
    let toml = config(one.address, &routes).replace(&one.address.to_string(), &format!("pay.internal:{port}"));
    let gateway = Gateway::knowing(names.clone(), TestLedger::new(), &toml);
    eventually("the first address", || gateway.counts("http://127.0.0.1:"));
    assert_eq!(gateway.call(&post("/pass")).status(), 200);
    names.say("pay.internal", &[2]);
    eventually("the second address", || gateway.counts("http://127.0.0.2:"));
    assert_eq!(gateway.call(&post("/pass")).body, "2");
    assert_eq!(gateway.call(&post("/pass")).status(), 429);
}

/// Answers `/healthz` as it is told, and everything else.
fn asked(is_well: &Arc<AtomicBool>, checks: &Arc<AtomicUsize>) -> Upstream {
    let (is_well, checks) = (Arc::clone(is_well), Arc::clone(checks));
    Upstream::start(move |arrival, wire| {
        if arrival.message.start.contains("/healthz") {
            checks.fetch_add(1, Relaxed);
            wire.answer(if is_well.load(Relaxed) { 204 } else { 500 }, &[], "");
        } else {
            wire.answer(200, &[], "served");
        }
    })
}

#[test]
fn an_endpoint_that_is_not_well_is_left_out_until_it_is() {
    let (is_well, checks) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (sick, well) = (asked(&is_well, &checks), asked(&Arc::new(AtomicBool::new(true)), &Arc::default()));
    let health = "health = { path = \"/healthz\", interval = \"20ms\", unhealthy = 2 }\nbalance = { panic = \"10%\" }";
    let gateway = Gateway::before(&[&sick, &well], health, &route("POST /pass", "forward", ""));
    let state = |state: &str| format!("endpoint=\"http://{}\",state=\"{state}\"}} 1", sick.address);
    eventually("a check", || checks.load(Relaxed) > 2);
    assert!(gateway.counts(&state("serving")));
    is_well.store(false, Relaxed);
    eventually("it is left out", || gateway.counts(&state("unhealthy")));
    let passed = || sick.arrivals().iter().filter(|arrival| arrival.message.start.contains("/pass")).count();
    let before = passed();
    for _ in 0..20 {
        assert_eq!(gateway.call(&post("/pass")).status(), 200);
    }
    assert_eq!(passed(), before);
    is_well.store(true, Relaxed);
    eventually("it is back", || gateway.counts(&state("serving")));
    // Whoever asks no more has nobody left out for ever.
    is_well.store(false, Relaxed);
    eventually("it is left out again", || gateway.counts(&state("unhealthy")));
    let urls = format!("\"http://{}\", \"http://{}\"", sick.address, well.address);
    let toml = config(sick.address, &route("POST /pass", "forward", ""));
    let toml = toml
        .replace(&format!("\"http://{}\"", sick.address), &urls)
        .replace("[[route]]", "balance = { panic = \"10%\" }\n[[route]]");
    gateway.serving().reload(load(&toml));
    assert!(gateway.counts(&state("serving")));
}
