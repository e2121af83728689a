//! The gate: its places and its queue.

use std::{sync::atomic::Ordering, time::Duration};

use http::Request;
use http_body_util::BodyExt as _;
use semel_core::{
    policy::admission::{AdmissionPolicy, Concurrency, Priority, QueuePolicy, RefusedWhy},
    problem::ProblemKind,
};
use semel_tower::policy::{AdmissionLayer, Rank, ReducedCapacity};
use tower::{Layer as _, Service as _, ServiceExt as _, limit::ConcurrencyLimitLayer};

use crate::strict::{Strict, get, now, poll_once, respects_readiness};

fn one_at_a_time() -> AdmissionLayer {
    let queue = QueuePolicy { shed_from: 20.0, shed_all: 30.0, ..QueuePolicy::default() };
    AdmissionLayer::new(AdmissionPolicy { concurrency: Concurrency::Fixed(1), queue })
}

fn why(error: &semel_tower::BoxError) -> RefusedWhy {
    error.downcast_ref::<ReducedCapacity>().unwrap().refusal.why
}

#[tokio::test]
async fn readiness() {
    let inner = Strict::quick();
    let shared = inner.shared();
    respects_readiness(one_at_a_time().layer(inner), &shared).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_place_and_asks_for_readiness_itself() {
    let (inner, layer) = (Strict::slow(), one_at_a_time());
    let (shared, service) = (inner.shared(), layer.layer(inner));
    let mut first = Box::pin(service.clone().oneshot(get("first")));
    assert!(poll_once(&mut first).await.is_pending());
    let mut second = Box::pin(service.clone().oneshot(get("second")));
    let mut third = Box::pin(service.clone().oneshot(get("third")));
    assert!(poll_once(&mut second).await.is_pending() && poll_once(&mut third).await.is_pending());
    assert_eq!((layer.state().in_flight, layer.state().queued, shared.calls()), (1, 2, 1));
    shared.ends.add_permits(1);
    let answer = first.await.unwrap();
    assert!(poll_once(&mut second).await.is_pending());
    assert_eq!(shared.calls(), 1, "the first body is still on its way");
    shared.set_ready(false);
    drop(answer);
    assert!(poll_once(&mut second).await.is_pending());
    assert_eq!((shared.calls(), layer.state().in_flight), (1, 1), "it has the place, the inner service is not ready");
    shared.set_ready(true);
    shared.ends.add_permits(2);
    drop(second.await.unwrap());
    drop(third.await.unwrap());
    assert_eq!(*shared.order.lock().unwrap(), ["first", "second", "third"]);
    assert_eq!((layer.state().in_flight, layer.state().queued), (0, 0));
}

/// What an inner service reserves in `poll_ready` must not lie in the queue.
#[tokio::test(start_paused = true)]
async fn those_who_wait_reserve_nothing_inside() {
    let (inner, layer) = (Strict::slow(), one_at_a_time());
    let shared = inner.shared();
    let bounded = ConcurrencyLimitLayer::new(2).layer(inner);
    let service = layer.layer(bounded.clone());
    let mut first = Box::pin(service.clone().oneshot(get("first")));
    let mut second = Box::pin(service.clone().oneshot(get("second")));
    assert!(poll_once(&mut first).await.is_pending() && poll_once(&mut second).await.is_pending());
    assert_eq!(layer.state().queued, 1);
    // The other place of the inner limit is free for somebody else.
    let mut beside = Box::pin(bounded.oneshot(get("beside")));
    assert!(poll_once(&mut beside).await.is_pending());
    assert_eq!(shared.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_refused() {
    let (inner, layer) = (Strict::slow(), one_at_a_time());
    let (shared, service) = (inner.shared(), layer.layer(inner));
    let mut first = Box::pin(service.clone().oneshot(get("first")));
    assert!(poll_once(&mut first).await.is_pending());
    let started = now();
    let error = service.clone().oneshot(get("second")).await.unwrap_err();
    assert_eq!(why(&error), RefusedWhy::Waited);
    // Timers have a millisecond's grain.
    assert!((100..=101).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    let reduced = error.downcast_ref::<ReducedCapacity>().unwrap();
    assert!((1..=3).contains(&reduced.retry_after_seconds));
    assert_eq!(reduced.problem().kind(), ProblemKind::ReducedCapacity);
    assert_eq!((layer.state().queued, shared.calls()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn deadlines_are_known_in_the_queue() {
    let started = now().into_std();
    let layer = one_at_a_time().rank_by(move |request: &Request<()>| {
        let millis = request.uri().path().trim_start_matches('/').parse().unwrap_or(1_000);
        Rank::new(Priority::High).deadline(started + Duration::from_millis(millis))
    });
    let service = layer.layer(Strict::slow());
    let mut first = Box::pin(service.clone().oneshot(get("first")));
    assert!(poll_once(&mut first).await.is_pending());
    let started = now();
    assert_eq!(why(&service.clone().oneshot(get("7")).await.unwrap_err()), RefusedWhy::Waited);
    assert!((7..=8).contains(&started.elapsed().as_millis()));
    let late = service.clone().oneshot(get("7")).await.unwrap_err();
    assert_eq!(why(&late), RefusedWhy::DeadlineOver);
    assert_eq!(late.downcast_ref::<ReducedCapacity>().unwrap().problem().kind(), ProblemKind::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn who_matters_more_displaces_who_waits() {
    let queue = QueuePolicy { shed_from: 2.0, shed_all: 2.0, ..QueuePolicy::default() };
    let policy = AdmissionPolicy { concurrency: Concurrency::Fixed(1), queue };
    let layer = AdmissionLayer::new(policy).rank_by(|request: &Request<()>| {
        let class = if request.uri().path() == "/vip" { Priority::VeryHigh } else { Priority::Low };
        Rank::new(class).tenant(request.uri().path())
    });
    let (inner, mut calls) = (Strict::slow(), Vec::new());
    let (shared, service) = (inner.shared(), layer.layer(inner));
    for path in ["running", "early", "late"] {
        let mut call = Box::pin(service.clone().oneshot(get(path)));
        assert!(poll_once(&mut call).await.is_pending());
        calls.push(call);
    }
    assert_eq!(why(&service.clone().oneshot(get("later")).await.unwrap_err()), RefusedWhy::Shed);
    shared.ends.add_permits(3);
    let mut vip = Box::pin(service.clone().oneshot(get("vip")));
    assert!(poll_once(&mut vip).await.is_pending());
    assert_eq!(why(&calls.remove(2).await.unwrap_err()), RefusedWhy::Displaced);
    let early = calls.remove(1);
    for call in [calls.remove(0), vip, early] {
        drop(call.await.unwrap());
    }
    // The first frees the place, and the one that matters most takes it.
    assert_eq!(*shared.order.lock().unwrap(), ["running", "vip", "early"]);
}

#[tokio::test(start_paused = true)]
async fn a_place_comes_back_however_a_call_ends() {
    let (inner, layer) = (Strict::slow(), one_at_a_time());
    let (shared, service) = (inner.shared(), layer.layer(inner));
    let is_empty = || {
        let state = layer.state();
        (state.in_flight, state.queued, shared.running()) == (0, 0, 0)
    };
    drop(service.clone().ready().await.unwrap().call(get("a")));
    assert!(is_empty(), "dropped before it was polled");
    for path in ["panic", "panic-in-call"] {
        assert!(tokio::spawn(service.clone().oneshot(get(path))).await.unwrap_err().is_panic());
        assert!(is_empty(), "{path}");
    }
    let mut running = Box::pin(service.clone().oneshot(get("b")));
    let mut queued = Box::pin(service.clone().oneshot(get("c")));
    let mut next = Box::pin(service.clone().oneshot(get("d")));
    for call in [&mut running, &mut queued, &mut next] {
        assert!(poll_once(call).await.is_pending());
    }
    drop(queued);
    assert_eq!((layer.state().in_flight, layer.state().queued), (1, 1), "dropped in the queue");
    drop(running);
    assert_eq!((layer.state().in_flight, layer.state().queued), (1, 0), "dropped while it ran: the next has the place");
    // It has been given the place and hangs up before it hears of it.
    drop(next);
    assert!(is_empty());
    shared.ends.add_permits(1);
    assert!(service.clone().oneshot(get("error")).await.is_err());
    assert!(is_empty(), "failed");
}

/// A place that is given to one who has just hung up goes to the next, however many hung up.
#[tokio::test(start_paused = true)]
async fn a_place_passes_over_those_who_hung_up() {
    let (inner, layer) = (Strict::slow(), one_at_a_time());
    let (shared, service) = (inner.shared(), layer.layer(inner));
    let mut running = Box::pin(service.clone().oneshot(get("running")));
    assert!(poll_once(&mut running).await.is_pending());
    // In tasks, so that they hear of their place later than they get it.
    let tasks: Vec<_> = (0..9).map(|i| tokio::spawn(service.clone().oneshot(get(&i.to_string())))).collect();
    tokio::task::yield_now().await;
    assert_eq!(layer.state().queued, 9);
    tasks[..8].iter().for_each(tokio::task::JoinHandle::abort);
    drop(running);
    shared.ends.add_permits(1);
    let last = tasks.into_iter().next_back().unwrap().await.unwrap();
    drop(last.unwrap());
    assert_eq!((layer.state().in_flight, layer.state().queued), (0, 0));
}

#[tokio::test]
async fn a_place_is_held_until_the_body_ends() {
    let layer = one_at_a_time();
    let service = layer.layer(Strict::quick());
    let mut body = service.clone().oneshot(get("a")).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    assert_eq!(layer.state().in_flight, 1);
    assert!(body.frame().await.unwrap().is_ok());
    assert_eq!(layer.state().in_flight, 0);
    let layer = layer.until_answer();
    let answer = layer.layer(Strict::quick()).oneshot(get("c")).await.unwrap();
    assert_eq!(layer.state().in_flight, 0);
    drop(answer);
}

/// Under real threads: never more than the limit inside, and nothing lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads() {
    let queue = QueuePolicy {
        shed_from: 500.0,
        shed_all: 1_000.0,
        wait_max: Duration::from_secs(60),
        ..QueuePolicy::default()
    };
    let layer = AdmissionLayer::new(AdmissionPolicy { concurrency: Concurrency::Fixed(3), queue });
    let (inside, most) = (std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)), std::sync::Arc::default());
    let service = layer.clone().until_answer().layer(tower::service_fn(move |_: Request<()>| {
        let (inside, most) = (inside.clone(), std::sync::Arc::clone(&most));
        async move {
            let count = inside.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::task::yield_now().await;
            inside.fetch_sub(1, Ordering::SeqCst);
            let most: &std::sync::atomic::AtomicUsize = &most;
            Ok::<_, std::convert::Infallible>(most.fetch_max(count, Ordering::SeqCst).max(count))
        }
    }));
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move {
                let mut most = 0;
                for _ in 0..200 {
                    most = most.max(service.clone().oneshot(get("a")).await.unwrap());
                }
                most
            })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap() <= 3);
    }
    assert_eq!((layer.state().in_flight, layer.state().queued), (0, 0));
}
