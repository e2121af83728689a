//! Faults in a stack.

use std::time::Duration;

use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use semel_core::policy::fault::{FaultPolicy, Injected};
use semel_tower::{
    BoxError,
    policy::{FaultLayer, TruncatedOnPurpose},
};
use tower::{Layer as _, ServiceExt as _};

use crate::strict::{Strict, get, now, poll_once, respects_readiness};

const fn always<T>(fault: T) -> Option<Injected<T>> {
    Some(Injected { fault, share: 1.0 })
}

#[tokio::test(start_paused = true)]
async fn readiness() {
    for delay in [None, always(Duration::from_secs(1))] {
        let inner = Strict::quick();
        let shared = inner.shared();
        respects_readiness(FaultLayer::new(FaultPolicy { delay, ..FaultPolicy::default() }).layer(inner), &shared)
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_delayed_call_waits_for_readiness_again_and_can_be_cancelled() {
    let inner = Strict::quick();
    let shared = inner.shared();
    let delay = always(Duration::from_secs(3));
    let service = FaultLayer::new(FaultPolicy { delay, ..FaultPolicy::default() }).layer(inner);
    let started = now();
    assert!(service.clone().oneshot(get("a")).await.is_ok());
    assert_eq!(started.elapsed(), Duration::from_secs(3));
    let mut delayed = Box::pin(service.clone().oneshot(get("b")));
    assert!(poll_once(&mut delayed).await.is_pending());
    shared.set_ready(false);
    tokio::time::advance(Duration::from_secs(4)).await;
    assert!(poll_once(&mut delayed).await.is_pending(), "not ready any more");
    drop(delayed);
    assert_eq!(shared.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_aborted_call_is_not_sent() {
    let inner = Strict::quick();
    let shared = inner.shared();
    let policy = FaultPolicy {
        delay: always(Duration::from_secs(3)),
        abort: always(StatusCode::BAD_GATEWAY),
        truncate: always(3),
        ..FaultPolicy::default()
    };
    let started = now();
    let answer = FaultLayer::new(policy).layer(inner).oneshot(get("a")).await.unwrap();
    assert_eq!((answer.status(), started.elapsed()), (StatusCode::BAD_GATEWAY, Duration::from_secs(3)));
    assert_eq!(answer.headers()["semel-source"], "gateway");
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
    assert_eq!(shared.calls(), 0);
}

/// What comes of a body of two frames, and of one in one piece, and how it ends.
async fn cut(bytes: u64) -> [(String, bool); 2] {
    let layer = FaultLayer::new(FaultPolicy { truncate: always(bytes), ..FaultPolicy::default() });
    let parts = layer.layer(Strict::quick()).oneshot(get("a")).await.unwrap().into_body();
    let whole = tower::service_fn(async |_: Request<()>| {
        Ok::<_, BoxError>(http::Response::new(Full::new(bytes::Bytes::from("onetwo"))))
    });
    let whole = layer.layer(whole).oneshot(get("a")).await.unwrap().into_body();
    [read(parts.boxed()).await, read(whole.boxed()).await]
}

async fn read(mut body: http_body_util::combinators::BoxBody<bytes::Bytes, BoxError>) -> (String, bool) {
    use http_body::Body as _;
    let mut text = String::new();
    // As a server does: it stops where the body says that nothing follows.
    while !body.is_end_stream() {
        match body.frame().await {
            Some(Ok(frame)) => text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap()),
            Some(Err(error)) => return (text, error.is::<TruncatedOnPurpose>()),
            None => break,
        }
    }
    (text, false)
}

#[tokio::test]
async fn a_truncated_body_fails_and_does_not_seem_whole() {
    for (bytes, text) in [(0, ""), (2, "on"), (3, "one"), (4, "onet"), (5, "onetw")] {
        assert_eq!(cut(bytes).await, [(text.to_owned(), true), (text.to_owned(), true)], "{bytes}");
    }
    for bytes in [6, 7, u64::MAX] {
        assert_eq!(cut(bytes).await, [("onetwo".to_owned(), false), ("onetwo".to_owned(), false)], "{bytes}");
    }
}

#[tokio::test]
async fn headers_may_ask_where_the_policy_lets_them() {
    let service = FaultLayer::new(FaultPolicy { by_header: true, ..FaultPolicy::default() }).layer(Strict::quick());
    let mut request = get("a");
    request.headers_mut().insert("semel-fault-abort", HeaderValue::from_static("418"));
    assert_eq!(service.clone().oneshot(request).await.unwrap().status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(service.oneshot(get("a")).await.unwrap().status(), StatusCode::OK);
}
