//! What holds for every layer.

use semel_core::policy::{breaker::BreakerPolicy, hedge::HedgePolicy, retry::RetryPolicy, throttle::ThrottlePolicy};
use semel_tower::{
    BoxError,
    policy::{BreakerLayer, DeadlineLayer, HedgeLayer, RetryLayer, ThrottleLayer, TimeoutLayer},
};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt as _};

use crate::strict::{Act, MS, Req, Strict, get};

trait Any:
    Service<Req, Response = http::Response<String>, Error = BoxError, Future: Send> + Clone + Send + Unpin + 'static
{
}
impl<S> Any for S where
    S: Service<Req, Response = http::Response<String>, Error = BoxError, Future: Send> + Clone + Send + Unpin + 'static
{
}

/// Readiness is the inner service's, and belongs to the one that was asked: never to a clone.
fn is_ready_when_the_inner_is(layer: &impl Layer<Strict, Service: Any>) {
    let inner = Strict::ok();
    let seen = std::sync::Arc::clone(&inner.seen);
    let mut service = task::spawn(layer.layer(inner));
    seen.set_busy(true);
    assert_pending!(service.enter(|cx, mut service| service.poll_ready(cx)));
    seen.set_busy(false);
    assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
    // The strict service panics if its clone is called in its place.
    let mut call = task::spawn(service.call(get()));
    assert_ready_ok!(call.poll());
    for _ in 0..3 {
        assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
        let mut clone = task::spawn(service.clone());
        assert_ready_ok!(clone.enter(|cx, mut clone| clone.poll_ready(cx)));
        assert_ready_ok!(task::spawn(clone.call(get())).poll());
        assert_ready_ok!(task::spawn(service.call(get())).poll());
    }
    assert_eq!((seen.calls(), seen.alive()), (7, 0));
}

/// A caller that goes away takes the call under it with it.
fn dropping_cancels(layer: &impl Layer<Strict, Service: Any>) {
    let inner = Strict::new(|_| Act::Hang);
    let seen = std::sync::Arc::clone(&inner.seen);
    let service = layer.layer(inner);
    for _ in 0..30 {
        let mut call = task::spawn(service.clone().oneshot(get()));
        assert_pending!(call.poll());
        assert_eq!(seen.alive(), 1);
        drop(call);
        assert_eq!(seen.alive(), 0);
    }
    assert_eq!(seen.calls(), 30, "callers that went away say nothing about the service");
}

/// A call that panics takes nothing with it: the service goes on.
async fn panics_are_survived(layer: &impl Layer<Strict, Service: Any>) {
    let inner = Strict::new(|number| if number <= 30 { Act::Panic } else { Act::Answer(MS(0), 200) });
    let seen = std::sync::Arc::clone(&inner.seen);
    let service = layer.layer(inner);
    for _ in 0..30 {
        let call = tokio::spawn(service.clone().oneshot(get()));
        assert!(call.await.unwrap_err().is_panic());
        assert_eq!(seen.alive(), 0);
    }
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 200);
}

async fn keeps_the_contract(layer: impl Layer<Strict, Service: Any>) {
    is_ready_when_the_inner_is(&layer);
    dropping_cancels(&layer);
    panics_are_survived(&layer).await;
}

#[tokio::test(start_paused = true)]
async fn breaker() {
    keeps_the_contract(BreakerLayer::with_policy(BreakerPolicy::default()).http()).await;
}

#[tokio::test(start_paused = true)]
async fn throttle() {
    keeps_the_contract(ThrottleLayer::with_policy(ThrottlePolicy::default()).http()).await;
}

#[tokio::test(start_paused = true)]
async fn retry() {
    keeps_the_contract(RetryLayer::http(RetryPolicy::default())).await;
}

#[tokio::test(start_paused = true)]
async fn hedge() {
    keeps_the_contract(HedgeLayer::http(HedgePolicy::default())).await;
}

#[tokio::test(start_paused = true)]
async fn timeout() {
    keeps_the_contract(TimeoutLayer::new(MS(1_000))).await;
}

#[tokio::test(start_paused = true)]
async fn deadline() {
    keeps_the_contract(DeadlineLayer::new(MS(1_000))).await;
}

#[tokio::test(start_paused = true)]
async fn all_together() {
    let retry = RetryLayer::http(RetryPolicy::default());
    let stack = tower::ServiceBuilder::new()
        .layer(DeadlineLayer::new(MS(10_000)))
        .layer(retry)
        .layer(HedgeLayer::http(HedgePolicy::default()))
        .layer(TimeoutLayer::new(MS(3_000)))
        .layer(ThrottleLayer::with_policy(ThrottlePolicy::default()).http())
        .layer(BreakerLayer::with_policy(BreakerPolicy::default()).http());
    keeps_the_contract(stack).await;
}
