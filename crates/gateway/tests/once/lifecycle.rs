//! Reload and drain: nothing that runs is dropped.

use crate::support::{Call, Gate, Gateway, PLAIN, TestLedger, Upstream, config, load, post, route};

fn once() -> String {
    route("POST /pay", "once", &format!("idempotency = {{ {PLAIN} }}"))
}

#[test]
fn a_reload_changes_routes_and_drops_nothing() {
    let gate = Gate::default();
    let shut = gate.clone();
    let upstream = Upstream::start(move |arrival, wire| {
        if arrival.message.start.contains("/pay") {
            wire.wait(&shut);
        }
        wire.answer(201, &[], "done");
    });
    let gateway = Gateway::of(upstream.address, &once());
    let mut under_way = gateway.send(&post("/pay").key("k"));
    upstream.wait_for(1);
    gateway.call(&Call::new("GET", "/new")).refused(404, "route-not-found");
    let routes = route("GET /new", "read", "");
    gateway.serving().reload(load(&config(upstream.address, &routes)));
    assert_eq!(gateway.call(&Call::new("GET", "/new")).status(), 201);
    gateway.call(&post("/pay").key("k")).refused(404, "route-not-found");
    // The old route is gone for new requests and stays for those that began with it.
    gate.open();
    under_way.answer().said(201, "done", "committed");
    gateway.serving().reload(load(&config(upstream.address, &once())));
    gateway.call(&post("/pay").key("k")).said(201, "done", "committed").is_replay(true);
}

#[test]
fn a_connection_of_a_caller_survives_a_reload() {
    let upstream = Upstream::executing();
    let gateway = Gateway::of(upstream.address, &once());
    let mut caller = gateway.send(&post("/pay").key("a"));
    caller.answer().said(201, "done 0", "committed");
    let routes = format!("{}{}", once(), route("GET /new", "read", ""));
    gateway.serving().reload(load(&config(upstream.address, &routes)));
    assert_eq!(caller.again(&Call::new("GET", "/new")).answer().status(), 201);
    caller.again(&post("/pay").key("a")).answer().said(201, "done 0", "committed").is_replay(true);
}

#[test]
fn a_reload_keeps_the_connections_of_upstreams_that_did_not_change() {
    let upstream = Upstream::executing();
    let gateway = Gateway::of(upstream.address, &once());
    // On one connection of a caller, so that one runtime serves it all.
    let mut caller = gateway.send(&post("/pay").key("a"));
    caller.answer().said(201, "done 0", "committed");
    gateway.serving().reload(load(&config(upstream.address, &once())));
    caller.again(&post("/pay").key("b")).answer().said(201, "done 1", "committed");
    assert_eq!(upstream.connections(), 1);
    // Another setting is another pool.
    let other = config(upstream.address, &once()).replace("urls = ", "connections = 7\nurls = ");
    gateway.serving().reload(load(&other));
    caller.again(&post("/pay").key("c")).answer().said(201, "done 2", "committed");
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_reload_changes_who_is_believed_also_on_old_connections() {
    let upstream = Upstream::executing();
    let file = |proxies: &str| {
        let by_user = route("POST /pay", "once", "idempotency = { principal = \"header:x-user\" }");
        config(upstream.address, &format!("trusted_proxies = [\"{proxies}\"]\n{by_user}"))
    };
    let gateway = Gateway::over(TestLedger::new(), &file("127.0.0.0/8"));
    let ann = post("/pay").key("k").header("x-user", "ann");
    let mut caller = gateway.send(&ann);
    caller.answer().said(201, "done 0", "committed");
    gateway.serving().reload(load(&file("10.0.0.0/8")));
    caller.again(&ann).answer().refused(401, "principal-required");
    gateway.serving().reload(load(&file("127.0.0.1")));
    caller.again(&ann).answer().said(201, "done 0", "committed").is_replay(true);
}

#[test]
fn a_file_that_is_wrong_cannot_be_loaded_so_the_old_one_stays() {
    let upstream = Upstream::executing();
    let gateway = Gateway::of(upstream.address, &once());
    let wrong = config(upstream.address, &route("GET /pay", "once", ""));
    assert!(semel_config::load("test.toml", &wrong).is_err());
    gateway.call(&post("/pay").key("k")).said(201, "done 0", "committed");
}

#[test]
fn a_drain_waits_for_effects_also_of_callers_that_hung_up() {
    let gate = Gate::default();
    let shut = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.wait(&shut).answer(201, &[], "done");
    });
    let mut gateway = Gateway::of(upstream.address, &once());
    let ledger = std::sync::Arc::clone(&gateway.ledger);
    let mut staying = gateway.send(&post("/pay").key("stays"));
    let leaving = gateway.send(&post("/pay").key("leaves"));
    upstream.wait_for(2);
    drop(leaving);
    gateway.serving().drain();
    let stopping = std::thread::spawn(move || gateway.stop());
    gate.open();
    staying.answer().said(201, "done", "committed");
    assert!(stopping.join().unwrap());
    // Both are settled, so another gateway on the same ledger replays them.
    let next = Gateway::over(ledger, &config(upstream.address, &once()));
    for key in ["stays", "leaves"] {
        next.call(&post("/pay").key(key)).said(201, "done", "committed").is_replay(true);
    }
    assert_eq!(upstream.count(), 2);
}

#[test]
fn a_drain_ends_within_its_bound() {
    let gate = Gate::default();
    let shut = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.wait(&shut).answer(201, &[], "done");
    });
    let file = config(upstream.address, &once()).replace("drain_timeout = \"10s\"", "drain_timeout = \"100ms\"");
    let mut gateway = Gateway::over(TestLedger::new(), &file);
    let mut caller = gateway.send(&post("/pay").key("k"));
    upstream.wait_for(1);
    let began = semel_gateway::clock::now();
    assert!(gateway.stop());
    assert!(began.elapsed() < std::time::Duration::from_secs(5));
    assert!(caller.is_closed());
    // Nobody knows what became of it: it is open until its lease lapses, then unknown.
    assert_eq!(gateway.live().len(), 1);
    gate.open();
}

#[test]
fn a_drain_takes_no_new_connections() {
    let upstream = Upstream::executing();
    let mut gateway = Gateway::of(upstream.address, &once());
    let address = gateway.address();
    assert!(gateway.stop());
    assert!(std::net::TcpStream::connect(address).is_err());
}
