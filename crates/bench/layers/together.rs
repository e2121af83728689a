//! All policies in one stack.

use std::{convert::Infallible, time::Duration};

use divan::Bencher;
use http::{Request, Response};
use semel_core::policy::{
    admission::AdmissionPolicy,
    breaker::BreakerPolicy,
    hedge::HedgePolicy,
    rate_limit::{KEYS_MAX, LimitPolicy, Quota, Reach},
    retry::RetryPolicy,
    throttle::ThrottlePolicy,
};
use semel_tower::policy::{Balance, Policies, RateLimitLayer};
use tower::{Layer as _, service_fn};

use crate::harness::{AtOnce, Waits, calls, calls_of};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn limit<R>(key: fn(&R) -> u64) -> RateLimitLayer<u64, fn(&R) -> u64> {
    let quota = Quota::bucket(1_000_000_000, SECONDS(1), 1_000_000_000).expect("a quota");
    let keyed = LimitPolicy { name: "each".to_owned(), quota, reach: Reach::PerKey { keys_max: KEYS_MAX } };
    RateLimitLayer::new(vec![keyed], key).expect("limits")
}

macro_rules! all {
    ($policies:expr) => {
        $policies
            .admission(AdmissionPolicy::default())
            .total_timeout(SECONDS(30))
            .retry(RetryPolicy::default())
            .hedge(HedgePolicy::default())
            .attempt_timeout(SECONDS(10))
            .throttle(ThrottlePolicy::default())
            .breaker(BreakerPolicy::default())
            .bulkhead(100)
    };
}

/// Rate limit, admission, both timeouts, retry, hedge, throttle, breaker, bulkhead.
#[divan::bench]
fn any(bencher: Bencher<'_, '_>) {
    calls(bencher, all!(Policies::any().rate_limit(limit(|key| *key))).layer(AtOnce));
}

#[divan::bench]
fn any_waits(bencher: Bencher<'_, '_>) {
    calls(bencher, all!(Policies::any().rate_limit(limit(|key| *key))).layer(Waits));
}

fn request() -> Request<()> {
    Request::new(())
}

fn answer() -> std::future::Ready<Result<Response<String>, Infallible>> {
    std::future::ready(Ok(Response::new(String::new())))
}

#[divan::bench]
fn http_nothing(bencher: Bencher<'_, '_>) {
    calls_of(bencher, request, service_fn(|_: Request<()>| answer()));
}

/// The same, and headers: a deadline and a mark for each attempt.
#[divan::bench]
fn http(bencher: Bencher<'_, '_>) {
    let policies = all!(Policies::http().deadline(SECONDS(60)).rate_limit(limit(|_| 7)));
    calls_of(bencher, request, policies.layer(service_fn(|_: Request<()>| answer())));
}

#[divan::bench]
fn http_balance_of_three(bencher: Bencher<'_, '_>) {
    let endpoint = || service_fn(|_: Request<()>| answer());
    calls_of(bencher, request, Balance::http([(); 3].map(|()| endpoint())));
}
