//! Windows and markers.

use std::time::Duration;

use crate::support::{Gateway, Upstream, post};

#[test]
fn an_expired_key_is_refused_and_then_forgotten() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, r#"principal = "none", keep = "1h", marker = "2h""#);
    let first = gateway.call(&post("/pay").key("k"));
    assert_eq!(first.said(201, "done 0", "committed").header("idempotency-window"), Some("3600"));
    gateway.ledger.clock.advance(Duration::from_secs(3599));
    gateway.call(&post("/pay").key("k")).said(201, "done 0", "committed").is_replay(true);
    gateway.ledger.clock.advance(Duration::from_secs(2));
    let stale = gateway.call(&post("/pay").key("k"));
    stale.refused(409, "key-expired");
    assert_eq!((stale.header("semel-effect"), stale.header("x-should-retry")), (Some("committed"), Some("false")));
    assert_eq!(upstream.count(), 1);
    gateway.ledger.clock.advance(Duration::from_secs(2 * 3600));
    gateway.call(&post("/pay").key("k")).said(201, "done 1", "committed").is_replay(false);
}

#[test]
fn a_natural_key_never_expires() {
    let upstream = Upstream::executing();
    let gateway = Gateway::once(&upstream, r#"principal = "none", key = "json:/id""#);
    let call = post("/pay").body(r#"{"id":1}"#);
    gateway.call(&call).said(201, "done 0", "committed");
    gateway.ledger.clock.advance(Duration::from_secs(10 * 365 * 86_400));
    gateway.call(&call).said(201, "done 0", "committed").is_replay(true);
}

#[test]
fn what_is_unknown_never_expires() {
    let upstream = Upstream::start(|_, wire| wire.close());
    let gateway = Gateway::once(&upstream, r#"principal = "none", keep = "1h", marker = "1h""#);
    gateway.call(&post("/pay").key("k")).refused(504, "outcome-unknown");
    gateway.ledger.clock.advance(Duration::from_secs(10 * 365 * 86_400));
    gateway.call(&post("/pay").key("k")).refused(409, "outcome-unknown");
    assert_eq!(upstream.count(), 1);
}
