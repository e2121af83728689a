//! Attempts that lost: they are gone, with their bodies, before anybody could wait for them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use semel_core::policy::{hedge::Latencies, retry::RetryPolicy};
use semel_tower::policy::RetryLayer;
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer as _, Service as _, ServiceExt as _};

use crate::{
    hedge_layer,
    inner::{Act, Inner, Seen, get},
};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Latencies of 10 ms, as of now.
pub(crate) fn fill(latencies: &Latencies) {
    (0..100).for_each(|_| latencies.record(MS(10), now()));
}

#[expect(clippy::disallowed_methods, reason = "the one place of these tests that reads their clock")]
fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// An inner service that notes at each call how many others are alive, bodies included.
fn noting(act: fn(u32) -> Act) -> (Inner, Arc<Seen>, Arc<Mutex<Vec<u32>>>) {
    let (others, noted) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None::<Arc<Seen>>)));
    let (inner, seen) = Inner::new({
        let (others, noted) = (Arc::clone(&others), Arc::clone(&noted));
        move |number| {
            let alive = noted.lock().unwrap().as_ref().map_or(0, |seen| seen.alive());
            others.lock().unwrap().push(alive);
            act(number)
        }
    });
    *noted.lock().unwrap() = Some(Arc::clone(&seen));
    (inner, seen, others)
}

#[tokio::test(start_paused = true)]
async fn a_retry_holds_no_attempt_while_it_waits() {
    let act = |number| if number < 3 { Act::Answer(0, 503) } else { Act::Answer(0, 200) };
    let (inner, seen, others) = noting(act);
    let service = RetryLayer::http(RetryPolicy::default()).layer(inner);
    let mut call = task::spawn(service.oneshot(get()));
    assert_pending!(call.poll());
    assert_eq!((seen.calls(), seen.alive()), (1, 0), "the failed attempt is gone, with its body");
    let answer = call.await.unwrap();
    assert_eq!((answer.status().as_u16(), seen.alive()), (200, 1), "the answer's body");
    assert_eq!(*others.lock().unwrap(), [0, 0, 0]);
}

/// The first attempt hangs, or fails late; the second answers.
async fn hedged(first: fn(u32) -> Act) -> (u16, Arc<Seen>) {
    let layer = hedge_layer();
    // The quantile is computed anew ten times a second.
    tokio::time::advance(MS(200)).await;
    let (inner, seen) = Inner::new(first);
    let mut call = Box::pin(layer.layer(inner).ready().await.unwrap().call(get()));
    let answer = (&mut call).await.unwrap();
    assert_eq!(seen.alive(), 1, "the winner's body, although the call's future is still held");
    (answer.status().as_u16(), seen)
}

#[tokio::test(start_paused = true)]
async fn a_hedge_cancels_the_slow_one() {
    let (status, seen) = hedged(|number| if number == 1 { Act::Hang } else { Act::Answer(1, 200) }).await;
    assert_eq!((status, seen.calls(), seen.alive()), (200, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_is_slower_is_cancelled() {
    let (status, seen) = hedged(|number| if number == 1 { Act::Answer(50, 200) } else { Act::Hang }).await;
    assert_eq!((status, seen.calls(), seen.alive()), (200, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_s_body_is_dropped_when_the_other_wins() {
    let (status, seen) = hedged(|number| if number == 1 { Act::Answer(20, 503) } else { Act::Answer(50, 200) }).await;
    assert_eq!((status, seen.calls(), seen.alive()), (200, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_cancels_both() {
    let layer = hedge_layer();
    tokio::time::advance(MS(200)).await;
    let (inner, seen) = Inner::new(|_| Act::Hang);
    let mut call = task::spawn(layer.layer(inner).oneshot(get()));
    assert_pending!(call.poll());
    tokio::time::advance(MS(100)).await;
    assert_pending!(call.poll());
    assert_eq!(seen.alive(), 2);
    drop(call);
    assert_eq!((seen.alive(), seen.reserved()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_not_ready_yet_is_cancelled_too() {
    let layer = hedge_layer();
    tokio::time::advance(MS(200)).await;
    let (inner, seen) = Inner::new(|_| Act::Answer(150, 200));
    let mut call = task::spawn(layer.layer(inner).oneshot(get()));
    assert_pending!(call.poll());
    seen.set_busy(true);
    tokio::time::advance(MS(100)).await;
    assert_pending!(call.poll());
    assert_eq!((seen.calls(), seen.alive()), (1, 1), "the extra attempt waits for readiness");
    tokio::time::advance(MS(100)).await;
    let answer = assert_ready_ok!(call.poll(), "the first does not wait for it");
    seen.set_busy(false);
    drop((call, answer));
    assert_eq!((seen.calls(), seen.alive(), seen.reserved()), (1, 0, 0));
}
