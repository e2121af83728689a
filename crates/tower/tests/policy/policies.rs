//! Policies together.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use semel_core::policy::{
    admission::{AdmissionPolicy, Concurrency, RefusedWhy},
    backoff::{Backoff, Jitter},
    breaker::{BreakerOpen, BreakerPolicy},
    budget::{RetryBudget, WindowBudget},
    fault::{FaultPolicy, Injected},
    hedge::HedgePolicy,
    rate_limit::{LimitPolicy, Quota, Reach},
    retry::RetryPolicy,
};
use semel_tower::{
    BoxError,
    policy::{AdmissionLayer, BreakerLayer, ByDeadline, Elapsed, Policies, RateLimitLayer, ReducedCapacity},
};
use tower::{Layer as _, Service, ServiceExt as _, layer::layer_fn, service_fn};

use crate::strict::{Act, MS, Req, Strict, get, now};

#[tokio::test(start_paused = true)]
async fn layers_stand_in_the_order_in_which_they_are_added() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let mark = |name: &'static str| {
        let order = Arc::clone(&order);
        layer_fn(move |inner: Strict| {
            order.lock().unwrap().push(name);
            inner
        })
    };
    // Services are made from the innermost out.
    Policies::http().layer_here(mark("outer")).layer_here(mark("inner")).layer(Strict::ok());
    assert_eq!(*order.lock().unwrap(), ["inner", "outer"]);
}

#[tokio::test(start_paused = true)]
async fn retries_and_hedges_share_a_budget_in_which_a_call_counts_once() {
    let budget = Arc::new(RetryBudget::Window(WindowBudget::new(now().into_std(), 0.5, 0)));
    let inner = Strict::new(|_| Act::Answer(MS(1), 503));
    let seen = Arc::clone(&inner.seen);
    let policies = Policies::http()
        .budget(Arc::clone(&budget))
        .retry(RetryPolicy { attempts_max: 10, ..RetryPolicy::default() })
        .hedge(HedgePolicy { samples_min: 1, ..HedgePolicy::default() });
    let service = policies.layer(inner);
    for _ in 0..100 {
        assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 503);
    }
    // Counted twice, 100 calls would allow for 100.
    assert_eq!((seen.calls(), budget.remaining(now().into_std())), (150, (0, 50)));
}

#[tokio::test(start_paused = true)]
async fn who_has_gone_by_its_deadline_does_not_wait_for_a_place() {
    let concurrency = Concurrency::Fixed(1);
    let admission = AdmissionLayer::new(AdmissionPolicy { concurrency, ..AdmissionPolicy::default() });
    let admission = admission.rank_by(ByDeadline);
    // Without the layer's own timeout, which would be first.
    let inner = admission.layer(Strict::new(|_| Act::Hang));
    let busy = tokio::spawn(inner.clone().oneshot(get()));
    tokio::task::yield_now().await;
    let mut late = get();
    late.extensions_mut().insert(semel_core::policy::deadline::Deadline::at((now() + MS(1)).into_std()));
    let began = now();
    let refused = inner.oneshot(late).await.unwrap_err().downcast::<ReducedCapacity>().unwrap();
    assert_eq!((refused.refusal.why, began.elapsed()), (RefusedWhy::Waited, MS(1)), "it would wait for 100 ms");
    busy.abort();
}

#[tokio::test(start_paused = true)]
async fn retries_do_not_wait_past_the_total_timeout() {
    let backoff = Backoff { jitter: Jitter::Fixed, base: MS(600), ..Backoff::default() };
    let policies = Policies::any().total_timeout(MS(1_000)).retry(RetryPolicy { attempts_max: 9, backoff });
    let service = policies.layer(service_fn(async |_: u32| Err::<(), _>(BoxError::from("down"))));
    let began = now();
    assert_eq!(service.oneshot(1).await.unwrap_err().to_string(), "down", "the last answer, not a timeout");
    assert_eq!(began.elapsed(), MS(600), "the next wait, of 1,200 ms, would end after it");
}

#[tokio::test(start_paused = true)]
async fn for_calls_of_any_type() {
    let policies = Policies::any()
        .admission(AdmissionPolicy::default())
        .total_timeout(MS(1_000))
        .retry(RetryPolicy::default())
        .attempt_timeout(MS(100))
        .breaker(BreakerPolicy::default())
        .bulkhead(8);
    let service = policies.clone().layer(service_fn(async |number: u32| Ok::<_, BoxError>(number + 1)));
    assert_eq!(service.oneshot(1).await.unwrap(), 2);
    let hanging = policies.layer(service_fn(|_: u32| std::future::pending::<Result<u32, BoxError>>()));
    assert!(hanging.oneshot(1).await.unwrap_err().is::<Elapsed>());
}

#[tokio::test(start_paused = true)]
async fn services_of_clones_share_their_state() {
    let breaker = BreakerLayer::from(BreakerPolicy::default());
    let policies = Policies::http().breaker(breaker.clone());
    let failing = policies.clone().layer(Strict::new(|_| Act::Answer(MS(0), 500)));
    for _ in 0..5 {
        failing.clone().oneshot(get()).await.unwrap();
    }
    assert!(!breaker.gate().is_closed());
    assert!(policies.layer(Strict::ok()).oneshot(get()).await.unwrap_err().is::<BreakerOpen>());
}

/// What is refused, and why, as a caller over HTTP sees it.
async fn told<S, B>(service: &S, request: Req) -> (u16, bool)
where
    S: Service<Req, Response = Response<B>, Error: std::fmt::Debug> + Clone,
{
    let answer = service.clone().oneshot(request).await.unwrap();
    (answer.status().as_u16(), answer.headers().contains_key("retry-after"))
}

#[tokio::test(start_paused = true)]
async fn a_server_answers_what_its_policies_refuse() {
    let quota = Quota::bucket(1, MS(1_000), 2).unwrap();
    let limits = vec![LimitPolicy { name: "all".to_owned(), quota, reach: Reach::Global }];
    let limit = RateLimitLayer::new(limits, |_: &Req| ()).unwrap();
    let policies = Policies::http().answering().deadline(MS(1_000)).rate_limit(limit.announced());
    let hanging = Strict::new(|number| if number == 1 { Act::Answer(MS(0), 200) } else { Act::Hang });
    let service = policies.layer(hanging.map_response(|answer| answer.map(Full::<Bytes>::from)));
    assert_eq!(told(&service, get()).await, (200, false));
    let with = |timeout: &'static str| {
        let mut request = get();
        request.headers_mut().insert("semel-timeout", timeout.parse().unwrap());
        request
    };
    // Not counted: its deadline is over before anybody counts.
    assert_eq!(told(&service, with("0")).await, (504, false));
    assert_eq!(told(&service, with("soon")).await, (400, false));
    assert_eq!(told(&service, with("5")).await, (504, false), "no answer in time");
    assert_eq!(told(&service, get()).await, (429, true));
    let Ok(limited) = service.oneshot(get()).await;
    assert_eq!(limited.headers()["ratelimit-policy"], r#""all";q=1;w=1"#);
    assert_eq!(limited.headers()["semel-effect"], "none");
    assert_eq!(limited.headers()["content-type"], "application/problem+json");
}

#[tokio::test(start_paused = true)]
async fn what_is_rehearsed_is_retried_and_opens_no_breaker() {
    let abort = Some(Injected { fault: http::StatusCode::SERVICE_UNAVAILABLE, share: 1.0 });
    let breaker = BreakerLayer::from(BreakerPolicy::default());
    let policies = Policies::http()
        .retry(RetryPolicy::default())
        .fault(FaultPolicy { abort, ..FaultPolicy::default() })
        .breaker(breaker.clone());
    let inner = Strict::ok();
    let seen = Arc::clone(&inner.seen);
    let service = policies.layer(inner.map_response(|answer| answer.map(Full::<Bytes>::from)));
    let began = now();
    for _ in 0..10 {
        assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 503);
    }
    assert!(began.elapsed() > MS(10), "there were waits between attempts");
    assert_eq!((seen.calls(), breaker.gate().is_closed()), (0, true));
}
