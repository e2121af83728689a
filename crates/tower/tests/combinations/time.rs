//! Deadlines and timeouts, and those whom they cut short.

use std::sync::Arc;

use semel_core::policy::{breaker::BreakerPolicy, retry::RetryPolicy};
use semel_tower::policy::{BreakerLayer, DeadlineLayer, Elapsed, Policies};
use tower::{Layer as _, ServiceBuilder, ServiceExt as _};

use crate::upstream::{Fate, MS, Upstream, answer, get, hedges, now, within};

/// 503, and not before so many seconds again; then 200.
fn busy_for(seconds: u32) -> (Upstream, Arc<crate::upstream::Seen>) {
    Upstream::new(move |number| match number {
        1 => Fate::Answer { after: MS(10), status: 503, retry_after: Some(seconds) },
        _ => answer(10, 200),
    })
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_that_outlasts_the_deadline_fails_at_once() {
    let (upstream, seen) = busy_for(5);
    let service = Policies::http().deadline(MS(60_000)).retry(RetryPolicy::default()).layer(upstream);
    let began = now();
    let told = service.oneshot(within(2_000)).await.unwrap();
    assert_eq!((told.status().as_u16(), began.elapsed(), seen.calls()), (503, MS(10), 1), "no waiting in vain");
    assert_eq!(told.headers()["retry-after"], "5", "the caller learns it");
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_within_the_deadline_is_waited_out() {
    let (upstream, seen) = busy_for(5);
    let service = Policies::http().deadline(MS(60_000)).retry(RetryPolicy::default()).layer(upstream);
    let began = now();
    assert_eq!(service.oneshot(within(20_000)).await.unwrap().status(), 200);
    assert_eq!((began.elapsed(), seen.calls()), (MS(5_020), 2), "the backoff alone would be a second at most");
}

#[tokio::test(start_paused = true)]
async fn each_leg_of_a_hedge_is_told_what_is_left() {
    let (upstream, seen) = Upstream::new(|number| if number == 1 { Fate::Hang } else { answer(1, 200) });
    let hedges = hedges().await;
    let service = ServiceBuilder::new().layer(DeadlineLayer::new(MS(60_000))).layer(hedges).service(upstream);
    let began = now();
    assert_eq!(service.oneshot(within(1_000)).await.unwrap().status(), 200);
    let told: Vec<u128> = seen.header("semel-timeout").iter().map(|ms| ms.parse().unwrap()).collect();
    // The hedge left a millisecond before its answer came.
    assert_eq!(told, [1_000, 1_000 - began.elapsed().as_millis() + 1]);
    assert!(told[1] <= 990);
}

#[tokio::test(start_paused = true)]
async fn no_hedge_begins_after_the_deadline() {
    let (upstream, seen) = Upstream::new(|_| Fate::Hang);
    let hedges = hedges().await;
    let service = ServiceBuilder::new().layer(DeadlineLayer::new(MS(60_000))).layer(hedges).service(upstream);
    let began = now();
    let mut call = Box::pin(service.oneshot(within(5)));
    assert!((&mut call).await.unwrap_err().is::<Elapsed>());
    assert_eq!((began.elapsed(), seen.calls(), seen.alive()), (MS(5), 1, 0));
    tokio::time::advance(MS(100)).await;
    assert_eq!(seen.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_shorter_of_two_times_cuts_an_attempt_and_a_hurry_is_no_failure() {
    for (asked, cut, is_failure) in [(300, 300, false), (2_000, 1_000, true)] {
        let (upstream, seen) = Upstream::new(|_| Fate::Hang);
        let breaker = BreakerLayer::from(BreakerPolicy::default());
        let policies = Policies::http().deadline(MS(60_000)).attempt_timeout(MS(1_000)).breaker(breaker.clone());
        let service = policies.layer(upstream);
        for _ in 0..5 {
            let began = now();
            assert!(service.clone().oneshot(within(asked)).await.unwrap_err().is::<Elapsed>());
            assert_eq!((began.elapsed(), seen.alive()), (MS(cut), 0));
        }
        // Or anybody could shut an upstream to all others, by five calls that end before they have begun.
        assert_eq!(breaker.gate().is_closed(), !is_failure, "asked for {asked} ms");
    }
    let (upstream, _) = Upstream::new(|_| answer(1, 200));
    assert!(Policies::http().deadline(MS(5)).layer(upstream).oneshot(get()).await.is_ok());
}
