//! One of several services.

use std::sync::Arc;

use semel_core::policy::{balance::NoEndpoint, hedge::HedgePolicy, retry::RetryPolicy};
use semel_tower::policy::{Balance, HedgeLayer, HttpRepeat, Policies};
use tokio_test::{assert_pending, task};
use tower::{Layer as _, ServiceExt as _};

use crate::strict::{Act, MS, Seen, Strict, get, now};

fn endpoints<const N: usize>(acts: [fn(u32) -> Act; N]) -> (Balance<Strict>, [Arc<Seen>; N]) {
    let services = acts.map(Strict::new);
    let seen = services.each_ref().map(|service| Arc::clone(&service.seen));
    (Balance::http(services), seen)
}

const WELL: fn(u32) -> Act = |_| Act::Answer(MS(1), 200);
const ILL: fn(u32) -> Act = |_| Act::Answer(MS(1), 503);
const DEAD: fn(u32) -> Act = |_| Act::Hang;

#[tokio::test(start_paused = true)]
async fn each_retry_goes_to_an_endpoint_that_was_not_tried() {
    let (balance, seen) = endpoints([ILL, ILL, ILL]);
    let service = Policies::http().retry(RetryPolicy::default()).layer(balance);
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 503);
    assert_eq!(seen.map(|seen| seen.calls()), [1, 1, 1]);
}

/// One that hedges what takes longer than 10 ms.
async fn hedge() -> HedgeLayer<HttpRepeat> {
    let layer = HedgeLayer::http(HedgePolicy { samples_min: 1, ..HedgePolicy::default() });
    layer.latencies().record(MS(10), now().into_std());
    // The quantile is computed anew ten times a second.
    tokio::time::advance(MS(200)).await;
    layer
}

#[tokio::test(start_paused = true)]
async fn a_hedge_goes_elsewhere() {
    let (balance, seen) = endpoints([DEAD, DEAD]);
    let mut call = task::spawn(hedge().await.layer(balance).oneshot(get()));
    assert_pending!(call.poll());
    tokio::time::advance(MS(50)).await;
    assert_pending!(call.poll());
    assert_eq!(seen.each_ref().map(|seen| seen.calls()), [1, 1]);
    drop(call);
    assert_eq!(seen.map(|seen| seen.alive()), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn who_was_overtaken_was_slow() {
    let (balance, [dead, well]) = endpoints([DEAD, WELL]);
    let service = hedge().await.layer(balance.clone());
    for _ in 0..50 {
        assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 200);
    }
    let latency = balance.endpoints()[0].load().latency(now().into_std());
    assert!((MS(5)..MS(20)).contains(&latency), "{latency:?}");
    assert!(dead.calls() <= 5, "{} of 50 went there", dead.calls());
    assert_eq!((dead.alive(), well.calls()), (0, 50));
    assert!(balance.endpoints()[0].breaker().is_closed(), "it did not fail");
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_is_found_out() {
    let (balance, [dead, well]) = endpoints([DEAD, WELL]);
    let policies = Policies::http().retry(RetryPolicy::default()).attempt_timeout(MS(100));
    let service = policies.layer(balance.clone());
    for _ in 0..500 {
        assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 200);
    }
    assert_eq!((dead.alive(), well.calls()), (0, 500));
    // A failure counts as 5 s, so that it is not even asked often enough to be shut out.
    assert!(dead.calls() <= 5, "{} of 500 went there", dead.calls());
}

#[tokio::test(start_paused = true)]
async fn when_all_are_shut_out_nothing_is_sent() {
    let (balance, seen) = endpoints([ILL, ILL]);
    let mut refused = None;
    for _ in 0..30 {
        refused = balance.clone().oneshot(get()).await.err();
    }
    let NoEndpoint { retry_after } = *refused.unwrap().downcast::<NoEndpoint>().unwrap();
    assert!(MS(1) <= retry_after && retry_after <= MS(6_000), "{retry_after:?}");
    assert!(seen.iter().map(|seen| seen.calls()).sum::<u32>() < 30);
    assert!(Balance::http(Vec::<Strict>::new()).oneshot(get()).await.unwrap_err().is::<NoEndpoint>());
}

#[tokio::test(start_paused = true)]
async fn calls_of_any_type() {
    let endpoint = |n: u32| tower::service_fn(move |x: u32| async move { Ok::<_, std::convert::Infallible>(x + n) });
    let service = Policies::any().retry(RetryPolicy::default()).layer(Balance::any([endpoint(1), endpoint(2)]));
    let mut sum = 0;
    for _ in 0..100 {
        sum += service.clone().oneshot(0).await.unwrap();
    }
    assert!((110..=190).contains(&sum), "both are asked: {sum}");
}
