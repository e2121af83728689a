//! Breaker and throttle.

use std::sync::Arc;

use semel_core::policy::{
    breaker::{BreakerOpen, BreakerPolicy},
    retry::RetryPolicy,
    throttle::{ThrottlePolicy, Throttled},
};
use semel_tower::{
    BoxError,
    policy::{
        BreakerLayer, Breaking, ByStatus, DeadlineLayer, Elapsed, NotReady, Policies, ThrottleLayer, TimeoutLayer,
    },
};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt as _};

use crate::strict::{Act, MS, Req, Strict, get, post};

fn breaker() -> BreakerLayer<ByStatus> {
    BreakerLayer::with_policy(BreakerPolicy { jitter: 0.0, ..BreakerPolicy::default() }).http()
}

#[tokio::test(start_paused = true)]
async fn opens_probes_and_closes() {
    let inner = Strict::new(|number| Act::Answer(MS(1), if number <= 5 { 503 } else { 200 }));
    let seen = Arc::clone(&inner.seen);
    let service = breaker().layer(inner);
    for _ in 0..5 {
        assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 503);
    }
    let refused = service.clone().oneshot(get()).await.unwrap_err();
    let BreakerOpen { retry_after } = *refused.downcast::<BreakerOpen>().unwrap();
    assert_eq!((seen.calls(), retry_after), (5, MS(5_000)));
    tokio::time::advance(MS(5_000)).await;
    assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 200);
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_cancelled_or_panics_is_not_the_last() {
    // The known trap: half-open for ever.
    let inner = Strict::new(|number| match number {
        1..=5 => Act::Answer(MS(0), 500),
        6 => Act::Hang,
        7 => Act::Panic,
        _ => Act::Answer(MS(0), 200),
    });
    let seen = Arc::clone(&inner.seen);
    let service = breaker().layer(inner);
    for _ in 0..5 {
        service.clone().oneshot(get()).await.unwrap();
    }
    tokio::time::advance(MS(5_000)).await;
    let mut probe = task::spawn(service.clone().oneshot(get()));
    assert_pending!(probe.poll());
    assert!(service.clone().oneshot(get()).await.is_err(), "one at a time");
    drop(probe);
    assert!(tokio::spawn(service.clone().oneshot(get())).await.unwrap_err().is_panic());
    assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 200);
    assert_eq!(seen.calls(), 8);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_refuses_without_waiting_for_a_busy_service() {
    let inner = Strict::new(|_| Act::Answer(MS(0), 500));
    let seen = Arc::clone(&inner.seen);
    let layer = breaker();
    let mut service = task::spawn(layer.layer(inner));
    seen.set_busy(true);
    assert_pending!(service.enter(|cx, mut service| service.poll_ready(cx)));
    seen.set_busy(false);
    for _ in 0..5 {
        service.clone().oneshot(get()).await.unwrap();
    }
    seen.set_busy(true);
    assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
    let refused = assert_ready!(task::spawn(service.call(get())).poll());
    assert!(refused.unwrap_err().is::<BreakerOpen>());
    // Ready because it was shut, called when it is not any more: still no call to a service that is not ready, and the
    // place of the probe goes to the next.
    assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
    tokio::time::advance(MS(5_000)).await;
    let refused = assert_ready!(task::spawn(service.call(get())).poll());
    assert!(refused.unwrap_err().is::<NotReady>());
    assert_eq!(seen.calls(), 5);
    seen.set_busy(false);
    service.clone().oneshot(get()).await.unwrap();
    assert_eq!(seen.calls(), 6);
}

#[tokio::test(start_paused = true)]
async fn layers_share_their_breaker_and_different_layers_do_not() {
    let layer = breaker();
    let failing = layer.layer(Strict::new(|_| Act::Answer(MS(0), 500)));
    for _ in 0..5 {
        failing.clone().oneshot(get()).await.unwrap();
    }
    assert!(layer.clone().layer(Strict::ok()).oneshot(get()).await.is_err());
    assert!(breaker().layer(Strict::ok()).oneshot(get()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_throttle_refuses_what_the_service_would() {
    let inner = Strict::new(|_| Act::Answer(MS(0), 503));
    let seen = Arc::clone(&inner.seen);
    let service = ThrottleLayer::with_policy(ThrottlePolicy::default()).http().layer(inner);
    let mut refused = 0;
    for _ in 0..2_000 {
        if let Err(error) = service.clone().oneshot(get()).await {
            assert!(error.is::<Throttled>());
            refused += 1;
        }
    }
    // Four fifths of all but the first twenty, by chance: 1,584, within six standard deviations of 18.
    assert!((1_476..=1_692).contains(&refused), "{refused}");
    assert_eq!(seen.calls(), 2_000 - refused);
}

/// A breaker under what cancels, over a service that accepts everything and answers nothing.
async fn black_hole<L>(layer: L, request: fn() -> Req) -> (bool, u32)
where
    L: Layer<Breaking<Strict, ByStatus>>,
    L::Service: Service<Req, Error = BoxError> + Clone,
{
    let (breaker, inner) = (breaker(), Strict::new(|_| Act::Hang));
    let seen = Arc::clone(&inner.seen);
    let service = layer.layer(breaker.layer(inner));
    for _ in 0..5 {
        let call = tokio::time::timeout(MS(5_000), service.clone().oneshot(request())).await;
        assert!(call.is_err() || call.is_ok_and(|call| call.is_err_and(|error| error.is::<Elapsed>())));
        assert_eq!(seen.alive(), 0);
    }
    (breaker.gate().is_closed(), seen.calls())
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_is_found_out() {
    fn hurried() -> Req {
        let mut request = get();
        request.headers_mut().insert("semel-timeout", "500".parse().unwrap());
        request
    }
    assert_eq!(black_hole(TimeoutLayer::new(MS(1_000)), get).await, (false, 5));
    assert_eq!(black_hole(DeadlineLayer::new(MS(1_000)), get).await, (false, 5));
    assert_eq!(
        black_hole(Policies::http().retry(RetryPolicy::default()).attempt_timeout(MS(500)), post).await,
        (false, 5)
    );
    // Callers that hang up, or that give no time, are no evidence.
    assert_eq!(black_hole(DeadlineLayer::new(MS(1_000)), hurried).await, (true, 5));
    assert_eq!(black_hole(TimeoutLayer::new(MS(10_000)), get).await, (true, 5));
}

#[tokio::test(start_paused = true)]
async fn who_had_only_just_begun_is_not_to_blame() {
    for (spent, is_closed) in [(600, true), (400, false)] {
        let (breaker, inner) = (breaker(), Strict::new(|_| Act::Hang));
        let downstream = breaker.layer(inner);
        let handler = tower::service_fn(|request: Req| {
            let downstream = downstream.clone();
            async move {
                tokio::time::sleep(MS(spent)).await;
                downstream.oneshot(request).await
            }
        });
        let server = TimeoutLayer::new(MS(1_000)).layer(handler);
        for _ in 0..5 {
            assert!(server.oneshot(get()).await.unwrap_err().is::<Elapsed>());
        }
        assert_eq!(breaker.gate().is_closed(), is_closed, "{spent} ms of 1,000 were not its own");
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttle_knows_what_timed_out() {
    let inner = Strict::new(|_| Act::Hang);
    let seen = Arc::clone(&inner.seen);
    let throttle = ThrottleLayer::with_policy(ThrottlePolicy::default()).http();
    let service = TimeoutLayer::new(MS(1)).layer(throttle.layer(inner));
    for _ in 0..1_000 {
        assert!(service.clone().oneshot(get()).await.is_err());
    }
    assert!(seen.calls() < 500, "{} of 1,000 sent", seen.calls());
}
