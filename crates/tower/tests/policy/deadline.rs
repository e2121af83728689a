//! Deadlines and timeouts.

use std::sync::Arc;

use semel_core::policy::deadline::{Deadline, TimeoutError};
use semel_tower::policy::{DeadlineLayer, DeadlineOver, Elapsed, TimeoutLayer};
use tower::{Layer as _, ServiceExt as _};

use crate::strict::{Act, MS, Req, Strict, get, now};

fn asking(name: &'static str, value: &'static str) -> Req {
    let mut request = get();
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

#[tokio::test(start_paused = true)]
async fn what_takes_too_long_is_cancelled() {
    let inner = Strict::new(|_| Act::Hang);
    let seen = Arc::clone(&inner.seen);
    let began = now();
    let mut call = Box::pin(TimeoutLayer::new(MS(100)).layer(inner).oneshot(get()));
    assert!((&mut call).await.unwrap_err().is::<Elapsed>());
    assert_eq!(began.elapsed(), MS(100));
    drop(call);
    assert_eq!(seen.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_counts_and_so_does_one_at_once() {
    for after in [0, 99] {
        let act: fn(u32) -> Act = if after == 0 { |_| Act::Answer(MS(0), 200) } else { |_| Act::Answer(MS(99), 200) };
        assert!(TimeoutLayer::new(MS(100)).layer(Strict::new(act)).oneshot(get()).await.is_ok());
    }
    let endless = TimeoutLayer::new(std::time::Duration::MAX).layer(Strict::new(|_| Act::Answer(MS(99), 200)));
    assert!(endless.oneshot(get()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_callers_time_counts_within_the_bound() {
    let slow = || Strict::new(|_| Act::Hang);
    let layer = DeadlineLayer::new(MS(1_000));
    for (request, ms) in [
        (get(), 1_000),
        (asking("semel-timeout", "200"), 200),
        (asking("grpc-timeout", "300m"), 300),
        (asking("x-envoy-expected-rq-timeout-ms", "5000"), 1_000),
    ] {
        let began = now();
        assert!(layer.layer(slow()).oneshot(request).await.unwrap_err().is::<Elapsed>());
        assert_eq!(began.elapsed(), MS(ms));
    }
    let inner = slow();
    let seen = Arc::clone(&inner.seen);
    assert!(layer.layer(inner.clone()).oneshot(asking("semel-timeout", "0")).await.unwrap_err().is::<DeadlineOver>());
    assert!(layer.layer(inner).oneshot(asking("semel-timeout", "soon")).await.unwrap_err().is::<TimeoutError>());
    assert_eq!(seen.calls(), 0, "nothing was sent");
}

#[tokio::test(start_paused = true)]
async fn an_earlier_deadline_stands() {
    let mut request = get();
    let by = now() + MS(50);
    request.extensions_mut().insert(Deadline::at(by.into_std()));
    let inner = Strict::new(|_| Act::Hang);
    let seen = Arc::clone(&inner.seen);
    let began = now();
    assert!(DeadlineLayer::new(MS(1_000)).layer(inner).oneshot(request).await.unwrap_err().is::<Elapsed>());
    assert_eq!(began.elapsed(), MS(50));
    assert_eq!(seen.header("semel-timeout"), [Some("50".to_owned())]);
}
