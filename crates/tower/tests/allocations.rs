//! What a call costs in memory: nothing, in each layer that answers out of atomics, and in most of them together.

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::{AllocationInfo, measure};
use semel_core::policy::{
    admission::{AdmissionPolicy, Concurrency},
    breaker::BreakerPolicy,
    hedge::HedgePolicy,
    rate_limit::{KEYS_MAX, LimitPolicy, Quota, Reach},
    retry::RetryPolicy,
    throttle::ThrottlePolicy,
};
use semel_tower::policy::{
    AdmissionLayer, Balance, BreakerLayer, BulkheadLayer, HedgeLayer, Policies, RateLimitLayer, RetryLayer,
    ThrottleLayer, TimeoutLayer,
};
use tower::{Layer, Service, ServiceExt as _, service_fn};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

type Answer = std::future::Ready<Result<u64, Infallible>>;
type Echo = tower::util::ServiceFn<fn(u64) -> Answer>;

fn echo() -> Echo {
    service_fn(|number| std::future::ready(Ok(number)))
}

fn call<S: Service<u64>>(service: &mut S) {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(service.poll_ready(&mut cx), Poll::Ready(Ok(()))));
    let call = pin!(service.call(7));
    assert!(matches!(call.poll(&mut cx), Poll::Ready(Ok(_))));
}

/// What a thousand calls allocate, when the first ones have made what is made once.
fn allocations<S: Service<u64>>(mut service: S) -> AllocationInfo {
    (0..1_000).for_each(|_| call(&mut service));
    measure(|| (0..1_000).for_each(|_| call(&mut service)))
}

fn rate_limit() -> RateLimitLayer<u64, fn(&u64) -> u64> {
    let quota = Quota::bucket(1_000_000, SECONDS(1), 1_000_000).unwrap();
    let limit = |name: &str, reach| LimitPolicy { name: name.to_owned(), quota, reach };
    let limits = vec![limit("each", Reach::PerKey { keys_max: KEYS_MAX }), limit("all", Reach::Global)];
    RateLimitLayer::new(limits, (|key| *key) as fn(&u64) -> u64).unwrap()
}

fn admission(concurrency: Concurrency) -> AdmissionLayer {
    AdmissionLayer::new(AdmissionPolicy { concurrency, ..AdmissionPolicy::default() })
}

#[track_caller]
fn makes_none<S: Service<u64>>(service: S) {
    let info = allocations(service);
    assert_eq!(info.count_total, 0, "allocations of a thousand calls");
}

// Timers need a runtime to belong to.
#[tokio::test]
async fn each_layer() {
    makes_none(BreakerLayer::with_policy(BreakerPolicy::default()).layer(echo()));
    makes_none(ThrottleLayer::with_policy(ThrottlePolicy::default()).layer(echo()));
    // The budget's share.
    makes_none(RetryLayer::with_policy(RetryPolicy::default()).layer(echo()));
    makes_none(HedgeLayer::with_policy(HedgePolicy::default()).layer(echo()));
    makes_none(rate_limit().layer(echo()));
    makes_none(BulkheadLayer::new(1).until_answer().layer(echo()));
    makes_none(admission(Concurrency::Fixed(1)).until_answer().layer(echo()));
    makes_none(admission(Concurrency::default()).until_answer().layer(echo()));
    makes_none(TimeoutLayer::new(SECONDS(1)).layer(echo()));
    makes_none(Balance::any([echo(), echo(), echo()]));
}

#[tokio::test]
async fn all_of_them() {
    let policies = Policies::any()
        .rate_limit(rate_limit())
        .admission(AdmissionPolicy::default())
        .total_timeout(SECONDS(30))
        .retry(RetryPolicy::default())
        .hedge(HedgePolicy::default())
        .attempt_timeout(SECONDS(10))
        .throttle(ThrottlePolicy::default())
        .breaker(BreakerPolicy::default())
        .bulkhead(1);
    makes_none(policies.layer(echo()));
}

#[tokio::test]
async fn the_measure_sees_what_is_allocated() {
    let boxing = echo().map_response(|number| *std::hint::black_box(Box::new(number)));
    assert_eq!(allocations(boxing).count_total, 1_000);
}
