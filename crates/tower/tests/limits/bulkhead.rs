//! The bulkhead's places.

use http_body_util::BodyExt as _;
use semel_core::policy::admission::BulkheadFull;
use semel_tower::policy::BulkheadLayer;
use tower::{Layer as _, Service as _, ServiceExt as _};

use crate::strict::{Strict, get, poll_once, respects_readiness};

#[tokio::test]
async fn readiness() {
    let inner = Strict::quick();
    let shared = inner.shared();
    respects_readiness(BulkheadLayer::new(1).layer(inner), &shared).await;
}

#[tokio::test]
async fn what_is_more_is_refused_at_once_and_not_sent() {
    let (inner, layer) = (Strict::slow(), BulkheadLayer::new(1));
    let (shared, service) = (inner.shared(), layer.layer(inner));
    let mut first = Box::pin(service.clone().oneshot(get("a")));
    assert!(poll_once(&mut first).await.is_pending());
    let error = service.clone().oneshot(get("b")).await.unwrap_err();
    assert!(error.is::<BulkheadFull>(), "{error}");
    assert_eq!((shared.calls(), layer.bulkhead().taken()), (1, 1));
    // All services of a layer share its places.
    assert!(layer.layer(Strict::quick()).oneshot(get("c")).await.is_err());
    shared.ends.add_permits(1);
    drop(first.await.unwrap());
    assert_eq!(layer.bulkhead().taken(), 0);
}

#[tokio::test]
async fn a_place_is_held_until_the_body_ends() {
    let layer = BulkheadLayer::new(1);
    let service = layer.layer(Strict::quick());
    let mut body = service.clone().oneshot(get("a")).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    assert_eq!(layer.bulkhead().taken(), 1, "half a body is still an answer");
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "two");
    assert_eq!(layer.bulkhead().taken(), 0, "the last frame is the end, whether or not somebody asks for more");
    let unread = service.clone().oneshot(get("b")).await.unwrap();
    assert_eq!(layer.bulkhead().taken(), 1);
    drop(unread);
    assert_eq!(layer.bulkhead().taken(), 0);
    // Or until there is an answer.
    let layer = layer.until_answer();
    let answer = layer.layer(Strict::quick()).oneshot(get("c")).await.unwrap();
    assert_eq!(layer.bulkhead().taken(), 0);
    drop(answer);
}

#[tokio::test]
async fn a_place_comes_back_however_a_call_ends() {
    let (inner, layer) = (Strict::slow(), BulkheadLayer::new(1));
    let (shared, service) = (inner.shared(), layer.layer(inner));
    // Dropped before it was polled, and while it runs.
    drop(service.clone().ready().await.unwrap().call(get("a")));
    assert_eq!((layer.bulkhead().taken(), shared.running()), (0, 0));
    let mut running = Box::pin(service.clone().oneshot(get("b")));
    assert!(poll_once(&mut running).await.is_pending());
    assert_eq!((layer.bulkhead().taken(), shared.running()), (1, 1));
    drop(running);
    assert_eq!((layer.bulkhead().taken(), shared.running()), (0, 0));
    // Panics.
    for path in ["panic", "panic-in-call"] {
        assert!(tokio::spawn(service.clone().oneshot(get(path))).await.unwrap_err().is_panic());
        assert_eq!(layer.bulkhead().taken(), 0, "{path}");
    }
    // Fails.
    shared.ends.add_permits(1);
    assert_eq!(service.clone().oneshot(get("error")).await.unwrap_err().to_string(), "as asked");
    assert_eq!(layer.bulkhead().taken(), 0);
}
