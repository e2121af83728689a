//! Retries and hedges, and what stands between them and the service.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use semel_core::policy::{
    admission::BulkheadFull,
    breaker::{BreakerOpen, BreakerPolicy},
    fault::{FaultPolicy, Injected},
    retry::RetryPolicy,
    throttle::{Throttle, ThrottlePolicy, Throttled},
};
use semel_tower::policy::{
    BreakerLayer, BulkheadLayer, ByStatus, GateLayer, HttpRepeat, Policies, RefusedLater, RetryLayer, ThrottleLayer,
};
use tower::{Layer as _, ServiceBuilder, ServiceExt as _};

use crate::upstream::{Fate, MS, Upstream, answer, budget, get, hedges, now, retries};

fn breaker() -> BreakerLayer<ByStatus> {
    BreakerLayer::from(BreakerPolicy::default())
}

fn rejection(throttle: &GateLayer<Throttle, ByStatus>) -> f64 {
    throttle.gate().rejection_probability(now().into_std())
}

#[tokio::test(start_paused = true)]
async fn retries_that_wait_are_in_the_budget() {
    let (upstream, seen) = Upstream::new(|_| answer(10, 503));
    let service = RetryLayer::new(retries(), budget(0.2, 0), HttpRepeat::default()).layer(upstream);
    // All fail together, and all would wait before the first of them is sent again.
    let calls: Vec<_> = (0..1_000).map(|_| tokio::spawn(service.clone().oneshot(get()))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 503);
    }
    assert_eq!(seen.calls(), 1_200);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_repeat_is_the_end() {
    let (upstream, seen) = Upstream::new(|_| answer(0, 503));
    let throttle = ThrottleLayer::from(ThrottlePolicy { rejection_max: 1.0, ..ThrottlePolicy::default() });
    let policies = Policies::http().budget(budget(10.0, 1_000)).retry(retries()).throttle(throttle.clone());
    let service = policies.layer(upstream);
    let mut refused = 0;
    for _ in 0..500 {
        let (began, before) = (now(), seen.calls());
        let Err(error) = service.clone().oneshot(get()).await else { continue };
        refused += 1;
        let sent = seen.calls() - before;
        // It waited before each attempt that it made, and for the one that was refused, but not after that.
        assert_eq!(began.elapsed(), MS([0, 50, 150][sent as usize]));
        assert_eq!(error.is::<Throttled>(), sent == 0, "{error:?}");
        assert_eq!(error.is::<RefusedLater>(), sent > 0, "an attempt before it may have been executed");
    }
    assert!(refused >= 300 && rejection(&throttle) > 0.9, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_gives_its_place_back_before_the_wait() {
    let (upstream, seen) = Upstream::new(|number| answer(1, if number == 1 { 503 } else { 200 }));
    let bulkhead = BulkheadLayer::new(1);
    let service = Policies::http().retry(retries()).bulkhead(bulkhead.clone()).layer(upstream);
    let waiting = tokio::spawn(service.clone().oneshot(get()));
    tokio::time::sleep(MS(20)).await;
    assert_eq!(seen.calls(), 1, "it waits for 50 ms");
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 200, "meanwhile there is room for others");
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_is_no_failure_and_is_not_asked_again() {
    let (upstream, seen) = Upstream::new(|_| answer(1, 200));
    let (breaker, bulkhead) = (breaker(), BulkheadLayer::new(1));
    let throttle = ThrottleLayer::from(ThrottlePolicy::default());
    let policies = Policies::http().retry(retries()).throttle(throttle.clone()).breaker(breaker.clone());
    let service = policies.bulkhead(bulkhead.clone()).layer(upstream);
    bulkhead.bulkhead().try_take().unwrap();
    let began = now();
    for _ in 0..100 {
        assert!(service.clone().oneshot(get()).await.unwrap_err().is::<BulkheadFull>());
    }
    assert_eq!((seen.calls(), began.elapsed()), (0, MS(0)));
    assert!(breaker.gate().is_closed());
    assert_eq!(rejection(&throttle), 0.0);
}

#[tokio::test(start_paused = true)]
async fn refusals_of_a_breaker_are_no_failures_of_the_service() {
    let (upstream, _) = Upstream::new(|_| answer(0, 500));
    let (breaker, throttle) = (breaker(), ThrottleLayer::from(ThrottlePolicy::default()));
    let service = Policies::http().throttle(throttle.clone()).breaker(breaker.clone()).layer(upstream);
    for _ in 0..100 {
        let _ = service.clone().oneshot(get()).await;
    }
    assert!(!breaker.gate().is_closed());
    // Five failures of a hundred calls. A hundred would shut four of five calls out, for half a minute longer.
    assert!(rejection(&throttle) < 0.01, "{}", rejection(&throttle));
    assert!(service.oneshot(get()).await.unwrap_err().is::<BreakerOpen>());
}

#[tokio::test(start_paused = true)]
async fn a_fault_on_purpose_is_repeated_out_of_the_budget() {
    let abort = Some(Injected { fault: StatusCode::SERVICE_UNAVAILABLE, share: 1.0 });
    let (upstream, seen) = Upstream::new(|_| answer(0, 200));
    let policies = Policies::http().budget(budget(0.1, 0)).retry(retries());
    let policies = policies.fault(FaultPolicy { abort, ..FaultPolicy::default() });
    let service = policies.layer(upstream.map_response(|answer| answer.map(Full::<Bytes>::from)));
    let mut repeated = 0;
    for _ in 0..100 {
        let began = now();
        assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 503);
        repeated += u32::from(began.elapsed() > MS(0));
    }
    assert!((5..=10).contains(&repeated), "a rehearsal is no storm either: {repeated}");
    assert_eq!(seen.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_loser_of_a_hedge_is_no_failure() {
    let (upstream, seen) = Upstream::new(|number| if number % 2 == 1 { Fate::Hang } else { answer(1, 200) });
    let (breaker, throttle) = (breaker(), ThrottleLayer::from(ThrottlePolicy::default()));
    let layers = ServiceBuilder::new().layer(hedges().await).layer(throttle.clone()).layer(breaker.clone());
    let service = layers.service(upstream);
    for _ in 0..40 {
        assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 200);
    }
    assert_eq!((seen.calls(), seen.alive()), (80, 0));
    assert!(breaker.gate().is_closed());
    assert_eq!(rejection(&throttle), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_a_probing_breaker_refuses_does_not_end_the_call() {
    let (upstream, seen) = Upstream::new(|number| if number <= 5 { answer(0, 500) } else { answer(100, 200) });
    let breaker = breaker();
    let below = breaker.clone().layer(upstream);
    for _ in 0..5 {
        assert_eq!(below.clone().oneshot(get()).await.unwrap().status(), 500);
    }
    let service = hedges().await.layer(below);
    tokio::time::advance(MS(6_000)).await;
    // The first leg is the probe. The second is refused: there is one probe.
    let began = now();
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 200);
    assert_eq!((seen.calls(), began.elapsed()), (6, MS(100)));
    assert!(breaker.gate().is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_finds_no_place_does_not_end_the_call() {
    let (upstream, seen) = Upstream::new(|_| answer(100, 200));
    let bulkhead = BulkheadLayer::new(1);
    let service = ServiceBuilder::new().layer(hedges().await).layer(bulkhead.clone()).service(upstream);
    let began = now();
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 200);
    assert_eq!((seen.calls(), began.elapsed()), (1, MS(100)));
    assert!(bulkhead.bulkhead().try_take().is_ok(), "the place is free again");
}

#[tokio::test(start_paused = true)]
async fn only_one_policy_of_a_stack_repeats_a_post_and_only_where_that_is_safe() {
    let (upstream, seen) = Upstream::new(|_| answer(1, 502));
    let (hedges, all) = (hedges().await, RetryPolicy { attempts_max: 9, ..retries() });
    let service = ServiceBuilder::new().layer(RetryLayer::http(all)).layer(hedges).service(upstream);
    let post = http::Request::post("/").body(String::new()).unwrap();
    assert_eq!(service.oneshot(post).await.unwrap().status(), 502);
    assert_eq!(seen.calls(), 1);
    assert_eq!(Arc::strong_count(&seen), 1, "nothing is left behind");
}
