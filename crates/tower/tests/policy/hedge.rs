//! Hedges.

use std::sync::Arc;

use semel_core::policy::{
    budget::{RetryBudget, WindowBudget},
    hedge::HedgePolicy,
    retry::RetryPolicy,
};
use semel_tower::policy::{HedgeLayer, HttpRepeat, RetryLayer};
use tower::{Layer as _, ServiceBuilder, ServiceExt as _};

use crate::strict::{Act, MS, Strict, get, now, post};

/// Calls that take 10 ms each, so that the quantile is known.
const WARM_UP: u32 = 100;

fn layer(budget_per_second: u32) -> HedgeLayer<HttpRepeat> {
    let budget = WindowBudget::new(now().into_std(), 0.0, budget_per_second);
    HedgeLayer::new(HedgePolicy::default(), Arc::new(RetryBudget::Window(budget)), HttpRepeat::default())
}

async fn warm_up(layer: &HedgeLayer<HttpRepeat>) {
    let service = layer.layer(Strict::new(|_| Act::Answer(MS(10), 200)));
    for _ in 0..WARM_UP {
        service.clone().oneshot(get()).await.unwrap();
    }
    // The quantile is computed anew ten times a second.
    tokio::time::advance(MS(100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_is_overtaken_and_cancelled() {
    let layer = layer(10);
    warm_up(&layer).await;
    let inner = Strict::new(|number| if number == 1 { Act::Hang } else { Act::Answer(MS(10), 200) });
    let seen = Arc::clone(&inner.seen);
    let began = now();
    let mut call = Box::pin(layer.layer(inner).oneshot(get()));
    let response = (&mut call).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!((MS(20)..MS(25)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(seen.calls(), 2);
    assert_eq!(seen.alive(), 0, "the loser is gone although its future is still held");
    assert_eq!(seen.header("semel-attempt"), [Some("1/2".to_owned()), Some("2/2".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn only_a_success_wins() {
    let layer = layer(10);
    warm_up(&layer).await;
    let inner =
        Strict::new(|number| Act::Answer(MS(if number == 1 { 100 } else { 1 }), if number == 1 { 200 } else { 500 }));
    let seen = Arc::clone(&inner.seen);
    let response = layer.layer(inner).oneshot(get()).await.unwrap();
    assert_eq!((response.status().as_u16(), seen.calls()), (200, 2), "the extra attempt was quicker, and failed");
}

#[tokio::test(start_paused = true)]
async fn a_failure_fires_it_now() {
    let layer = layer(10);
    warm_up(&layer).await;
    let inner = Strict::new(|number| Act::Answer(MS(1), if number == 1 { 500 } else { 200 }));
    let began = now();
    let response = layer.layer(inner).oneshot(get()).await.unwrap();
    assert_eq!((response.status().as_u16(), began.elapsed()), (200, MS(2)));
    let inner = Strict::new(|number| Act::Answer(MS(1), if number == 1 { 500 } else { 503 }));
    assert_eq!(layer.layer(inner).oneshot(get()).await.unwrap().status(), 503, "both failed: the last one's answer");
}

#[tokio::test(start_paused = true)]
async fn hedges_are_in_the_budget() {
    let layer = layer(1);
    warm_up(&layer).await;
    let inner = Strict::new(|_| Act::Answer(MS(50), 200));
    let seen = Arc::clone(&inner.seen);
    let service = layer.layer(inner);
    let calls: Vec<_> = (0..50).map(|_| tokio::spawn(service.clone().oneshot(get()))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(seen.calls(), 60, "ten of fifty");
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_repeated_is_not_hedged() {
    let layer = layer(10);
    warm_up(&layer).await;
    let slow = || Strict::new(|_| Act::Answer(MS(500), 200));
    let inner = slow();
    let seen = Arc::clone(&inner.seen);
    layer.layer(inner).oneshot(post()).await.unwrap();
    assert_eq!(seen.calls(), 1);
    let inner = slow();
    let seen = Arc::clone(&inner.seen);
    let mut owned = get();
    owned.headers_mut().insert("semel-attempt", "1/3".parse().unwrap());
    layer.layer(inner).oneshot(owned).await.unwrap();
    assert_eq!(seen.calls(), 1, "somebody before us retries");
}

#[tokio::test(start_paused = true)]
async fn under_a_retry_of_the_same_process_it_goes_on() {
    let layer = layer(10);
    warm_up(&layer).await;
    let inner = Strict::new(|number| if number == 1 { Act::Hang } else { Act::Answer(MS(1), 200) });
    let seen = Arc::clone(&inner.seen);
    let service = ServiceBuilder::new().layer(RetryLayer::http(RetryPolicy::default())).layer(layer).service(inner);
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 200);
    assert_eq!(seen.calls(), 2);
    assert_eq!(seen.header("semel-attempt"), [Some("1/3".to_owned()), Some("1/3".to_owned())], "one mark: the retry's");
}
