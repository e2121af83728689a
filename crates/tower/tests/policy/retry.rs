//! Retries, alone and around others.

use std::sync::Arc;

use semel_core::policy::{
    backoff::{Backoff, Jitter},
    breaker::{BreakerOpen, BreakerPolicy},
    budget::{QuotaBudget, RetryBudget, WindowBudget},
    retry::RetryPolicy,
};
use semel_tower::policy::{
    BreakerLayer, DeadlineLayer, HttpRepeat, RefusedLater, RetryLayer, TimeoutLayer, is_refusal,
};
use tokio_test::{assert_pending, task};
use tower::{Layer as _, ServiceBuilder, ServiceExt as _};

use crate::strict::{Act, MS, Strict, get, now, post};

/// Waits are exactly 50, 100, 200 ms.
fn policy() -> RetryPolicy {
    RetryPolicy { backoff: Backoff { jitter: Jitter::Fixed, ..Backoff::default() }, ..RetryPolicy::default() }
}

fn window(ratio: f64, per_second: u32) -> Arc<RetryBudget> {
    Arc::new(RetryBudget::Window(WindowBudget::new(now().into_std(), ratio, per_second)))
}

#[tokio::test(start_paused = true)]
async fn repeats_with_backoff_and_marks() {
    let inner = Strict::new(|number| Act::Answer(MS(0), if number < 3 { 503 } else { 200 }));
    let seen = Arc::clone(&inner.seen);
    let began = now();
    let response = RetryLayer::http(policy()).layer(inner).oneshot(get()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(began.elapsed(), MS(150));
    let marks: Vec<_> = seen.header("semel-attempt").into_iter().flatten().collect();
    assert_eq!(marks, ["1/3", "2/3", "3/3"]);
}

#[tokio::test(start_paused = true)]
async fn a_post_is_repeated_only_where_that_is_safe() {
    // The known trap: a POST that is retried by default pays twice.
    let failing = || Strict::new(|_| Act::Answer(MS(0), 502));
    let inner = failing();
    let seen = Arc::clone(&inner.seen);
    let response = RetryLayer::http(policy()).layer(inner).oneshot(post()).await.unwrap();
    assert_eq!((response.status().as_u16(), seen.calls()), (502, 1));
    let inner = failing();
    let seen = Arc::clone(&inner.seen);
    let idempotent = RetryLayer::new(policy(), window(1.0, 10), HttpRepeat::default().idempotent());
    idempotent.layer(inner).oneshot(post()).await.unwrap();
    assert_eq!(seen.calls(), 3);
    let inner = Strict::new(|_| Act::Answer(MS(0), 429));
    let seen = Arc::clone(&inner.seen);
    RetryLayer::http(policy()).layer(inner).oneshot(post()).await.unwrap();
    assert_eq!(seen.calls(), 3, "surely not executed");
}

#[tokio::test(start_paused = true)]
async fn only_the_outermost_retries() {
    let inner = Strict::new(|_| Act::Answer(MS(0), 503));
    let seen = Arc::clone(&inner.seen);
    let hop = || RetryLayer::http(policy());
    // Three hops in one process would be three layers; over the wire only the headers remain.
    let mut request = get();
    request.headers_mut().insert("semel-attempt", "1/3".parse().unwrap());
    hop().layer(inner).oneshot(request).await.unwrap();
    assert_eq!(seen.calls(), 1);
    assert_eq!(seen.header("semel-attempt"), [Some("1/3".to_owned())], "the outer mark goes on as it came");
}

#[tokio::test(start_paused = true)]
async fn the_budget_bounds_all_calls_together() {
    let inner = Strict::new(|_| Act::Answer(MS(0), 503));
    let seen = Arc::clone(&inner.seen);
    let layer = RetryLayer::new(policy(), window(0.2, 0), HttpRepeat::default());
    let service = layer.layer(inner);
    let mut advised = 0;
    for _ in 0..500 {
        let response = service.clone().oneshot(get()).await.unwrap();
        advised += u32::from(response.headers().contains_key("x-should-retry"));
    }
    assert!(seen.calls() <= 600, "{}", seen.calls());
    assert!(advised >= 400, "the answer says do-not-retry: {advised}");
}

#[tokio::test(start_paused = true)]
async fn first_successes_refill_the_quota() {
    let budget = Arc::new(RetryBudget::Quota(QuotaBudget::full()));
    let layer = RetryLayer::new(policy(), Arc::clone(&budget), HttpRepeat::default());
    let failing = layer.layer(Strict::new(|_| Act::Answer(MS(0), 500)));
    for _ in 0..100 {
        failing.clone().oneshot(get()).await.unwrap();
    }
    let (left, full) = budget.remaining(now().into_std());
    assert_eq!((left, full), (0, 35));
    let working = layer.layer(Strict::ok());
    for _ in 0..100 {
        working.clone().oneshot(get()).await.unwrap();
    }
    assert!(budget.remaining(now().into_std()).0 >= 7);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_bounds_the_whole_and_is_told_anew() {
    // The known trap: the second attempt is told the time that the first one had.
    let inner = Strict::new(|_| Act::Answer(MS(450), 503));
    let seen = Arc::clone(&inner.seen);
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new(MS(10_000)))
        .layer(RetryLayer::http(RetryPolicy { attempts_max: 9, ..policy() }))
        .service(inner);
    let mut request = get();
    request.headers_mut().insert("semel-timeout", "1000".parse().unwrap());
    request.headers_mut().insert("grpc-timeout", "10S".parse().unwrap());
    let began = now();
    let answer = service.oneshot(request).await;
    assert_eq!(began.elapsed(), MS(950));
    assert!(answer.is_ok_and(|answer| answer.status() == 503), "there is an answer, and no time for another attempt");
    let told: Vec<_> = seen.header("semel-timeout").into_iter().flatten().collect();
    assert_eq!(told, ["1000", "500"]);
    let grpc: Vec<_> = seen.header("grpc-timeout").into_iter().flatten().collect();
    assert_eq!(grpc, ["1000000u", "500000u"]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_our_own_is_not_retried_and_an_open_breaker_ends_retries() {
    let inner = Strict::new(|_| Act::Answer(MS(0), 500));
    let seen = Arc::clone(&inner.seen);
    let service = ServiceBuilder::new()
        .layer(RetryLayer::http(policy()))
        .layer(BreakerLayer::with_policy(BreakerPolicy::default()).http())
        .service(inner);
    // The breaker sees attempts, not calls.
    assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 500);
    let began = now();
    let error = service.clone().oneshot(get()).await.unwrap_err().downcast::<RefusedLater>().unwrap();
    assert!(error.refusal.is::<BreakerOpen>(), "the third attempt is refused");
    assert!(!is_refusal(&*error), "and two were sent: nobody knows that nothing happened");
    assert_eq!((seen.calls(), began.elapsed()), (5, MS(150)));
    assert!(service.oneshot(get()).await.unwrap_err().is::<BreakerOpen>());
    assert_eq!((seen.calls(), began.elapsed()), (5, MS(150)), "no waiting in vain");
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_its_timeout() {
    let inner = Strict::new(|number| if number < 3 { Act::Hang } else { Act::Answer(MS(0), 200) });
    let seen = Arc::clone(&inner.seen);
    let began = now();
    let service =
        ServiceBuilder::new().layer(RetryLayer::http(policy())).layer(TimeoutLayer::new(MS(100))).service(inner);
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 200);
    assert_eq!(began.elapsed(), MS(350));
    assert_eq!((seen.calls(), seen.alive()), (3, 0), "what timed out was cancelled");
}

#[tokio::test(start_paused = true)]
async fn it_waits_until_the_service_is_ready_again() {
    let inner = Strict::new(|number| Act::Answer(MS(0), if number == 1 { 503 } else { 200 }));
    let seen = Arc::clone(&inner.seen);
    let mut call = task::spawn(RetryLayer::http(policy()).layer(inner).oneshot(get()));
    assert_pending!(call.poll());
    seen.set_busy(true);
    tokio::time::advance(MS(51)).await;
    assert_pending!(call.poll());
    assert_eq!(seen.calls(), 1);
    seen.set_busy(false);
    assert!(call.poll().is_ready());
    assert_eq!(seen.calls(), 2);
}
