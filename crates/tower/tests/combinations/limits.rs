//! Rate limits and admission, and the attempts of the calls that they let in.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use http::Request;
use semel_core::policy::{
    admission::{AdmissionPolicy, Concurrency, Priority},
    breaker::{BreakerOpen, BreakerPolicy},
    rate_limit::{LimitPolicy, Quota, Reach},
    throttle::ThrottlePolicy,
};
use semel_tower::{
    BoxError,
    policy::{
        AdmissionLayer, BreakerLayer, ByStatus, DeadlineLayer, Policies, QuotaExceeded, Rank, RateLimitLayer,
        ThrottleLayer,
    },
};
use tokio::{sync::Semaphore, task::JoinSet};
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn};

use crate::upstream::{Fate, MS, Req, Upstream, answer, get, hedges, now, retries};

/// So many calls, and one a minute.
fn limit(calls: u32) -> RateLimitLayer<(), fn(&Req)> {
    let quota = Quota::bucket(1, MS(60_000), calls).unwrap();
    let limits = vec![LimitPolicy { name: "all".to_owned(), quota, reach: Reach::Global }];
    RateLimitLayer::new(limits, (|_| ()) as fn(&Req)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_costs_one_unit_however_often_it_is_attempted() {
    let (upstream, seen) = Upstream::new(|number| match number {
        1 | 2 => answer(0, 503),
        4 => Fate::Hang,
        _ => answer(1, 200),
    });
    let hedges = hedges().await;
    let service = Policies::http().rate_limit(limit(2)).retry(retries()).layer_here(hedges).layer(upstream);
    for _ in 0..2 {
        assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 200);
    }
    assert!(service.oneshot(get()).await.unwrap_err().is::<QuotaExceeded>());
    assert_eq!(seen.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn our_own_limit_is_not_asked_again() {
    let (upstream, seen) = Upstream::new(|_| answer(0, 200));
    // As a client that bounds its own calls: the limit is inside.
    let breaker = BreakerLayer::<ByStatus>::from(BreakerPolicy::default());
    let service = Policies::http().retry(retries()).breaker(breaker.clone()).layer_here(limit(1)).layer(upstream);
    assert!(service.clone().oneshot(get()).await.is_ok());
    let began = now();
    for _ in 0..50 {
        assert!(service.clone().oneshot(get()).await.unwrap_err().is::<QuotaExceeded>());
    }
    assert_eq!((seen.calls(), began.elapsed()), (1, MS(0)));
    assert!(breaker.gate().is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_429_opens_no_breaker_and_feeds_the_throttle() {
    let (upstream, _) = Upstream::new(|_| answer(0, 429));
    let breaker = BreakerLayer::<ByStatus>::from(BreakerPolicy::default());
    let throttle = ThrottleLayer::from(ThrottlePolicy::default());
    let service = Policies::http().throttle(throttle.clone()).breaker(breaker.clone()).layer(upstream);
    for _ in 0..50 {
        let _ = service.clone().oneshot(get()).await;
    }
    assert!(breaker.gate().is_closed(), "it is well; one greedy tenant must not shut out all");
    assert!(throttle.gate().rejection_probability(now().into_std()) > 0.5);
}

#[tokio::test(start_paused = true)]
async fn a_call_has_one_place_however_often_it_is_attempted() {
    let (upstream, seen) = Upstream::new(|number| match number {
        1 => answer(40, 503),
        2 => answer(1, 503),
        _ => answer(1, 200),
    });
    let concurrency = Concurrency::Fixed(1);
    let admission = AdmissionLayer::new(AdmissionPolicy { concurrency, ..AdmissionPolicy::default() });
    let hedges = hedges().await;
    let service = Policies::http().admission_by(admission.clone()).retry(retries()).layer_here(hedges).layer(upstream);
    let call = tokio::spawn(service.clone().oneshot(get()));
    let mut places = Vec::new();
    while !call.is_finished() {
        tokio::time::sleep(MS(1)).await;
        places.push(admission.state().in_flight);
    }
    assert_eq!(call.await.unwrap().unwrap().status(), 200);
    assert!(seen.calls() == 3 && places[..places.len() - 1].iter().all(|places| *places == 1), "{places:?}");
    assert_eq!(admission.state().in_flight, 0);
}

/// So many callers, each of whom calls again when it is answered, and 50 ms after it was not; for so long. Tells how many
/// calls were answered, and how many were not.
async fn demand<S>(service: &S, call: fn() -> Req, callers: u32, ms: u64) -> (u32, u32)
where
    S: Service<Req, Error: Send, Future: Send, Response: Send> + Clone + Send + 'static,
{
    let (until, counts) = (now() + MS(ms), Arc::new([AtomicU32::new(0), AtomicU32::new(0)]));
    let mut callers: JoinSet<()> = (0..callers)
        .map(|_| {
            let (service, counts) = (service.clone(), Arc::clone(&counts));
            async move {
                while now() < until {
                    let is_answered = service.clone().oneshot(call()).await.is_ok();
                    counts[usize::from(!is_answered)].fetch_add(1, Ordering::Relaxed);
                    if !is_answered {
                        tokio::time::sleep(MS(50)).await;
                    }
                }
            }
        })
        .collect();
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    (counts[0].load(Ordering::Relaxed), counts[1].load(Ordering::Relaxed))
}

fn adaptive() -> AdmissionLayer {
    AdmissionLayer::new(AdmissionPolicy::default())
}

#[tokio::test(start_paused = true)]
async fn quick_refusals_are_no_measure_of_an_adaptive_limit() {
    let is_well = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&is_well);
    let (upstream, _) = Upstream::new(move |_| answer(20, if told.load(Ordering::Relaxed) { 200 } else { 500 }));
    let (admission, breaker) = (adaptive(), BreakerLayer::from(BreakerPolicy::default()));
    let service = Policies::http().admission_by(admission.clone()).breaker(breaker.clone()).layer(upstream);
    demand(&service, get, 12, 10_000).await;
    let before = admission.state().limit;
    is_well.store(false, Ordering::Relaxed);
    let (_, refused) = demand(&service, get, 12, 20_000).await;
    assert!(refused > 1_000 && service.clone().oneshot(get()).await.unwrap_err().is::<BreakerOpen>());
    assert_eq!(admission.state().limit, before);
    is_well.store(true, Ordering::Relaxed);
    tokio::time::advance(MS(100_000)).await;
    // Had it taken a refusal's time for what a call can take, 20 ms would be an overload from now on.
    let (answered, refused) = demand(&service, get, 12, 10_000).await;
    assert!(
        answered >= 12 * 500 * 9 / 10 && refused <= 12,
        "while the probe is out; {answered} answered, {refused} refused"
    );
    assert!(admission.state().limit >= before);
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_falls_where_calls_run_out_of_time() {
    let (upstream, _) = Upstream::new(|_| Fate::Hang);
    let by_attempt = adaptive();
    let service = Policies::http().admission_by(by_attempt.clone()).attempt_timeout(MS(1_000)).layer(upstream.clone());
    demand(&service, get, 40, 12_000).await;
    assert!(by_attempt.state().limit <= 3, "{}", by_attempt.state().limit);
    // Cut off from outside it learns of it as well.
    let by_deadline = adaptive();
    let service =
        ServiceBuilder::new().layer(DeadlineLayer::new(MS(1_000))).layer(by_deadline.clone()).service(upstream);
    demand(&service, get, 40, 12_000).await;
    assert!(by_deadline.state().limit <= 3, "{}", by_deadline.state().limit);
}

#[tokio::test(start_paused = true)]
async fn who_matters_less_is_shed_first_while_the_limit_adapts() {
    let workers = Arc::new(Semaphore::new(4));
    let inner = service_fn(move |_: Req| {
        let workers = Arc::clone(&workers);
        async move {
            let _worker = workers.acquire().await.unwrap();
            tokio::time::sleep(MS(20)).await;
            Ok::<_, BoxError>(http::Response::new(String::new()))
        }
    });
    let admission = adaptive().rank_by(|request: &Req| {
        Rank::new(if request.headers().contains_key("batch") { Priority::VeryLow } else { Priority::VeryHigh })
    });
    let service = admission.layer(inner);
    let batch = || Request::get("/").header("batch", "yes").body(String::new()).unwrap();
    // People ask for half of what can be done; batches for many times as much.
    let ((answered, refused), (_, shed)) =
        tokio::join!(demand(&service, get, 2, 20_000), demand(&service, batch, 60, 20_000));
    assert!(refused * 50 <= answered, "{answered} of the people's calls answered, {refused} refused");
    assert!(shed >= 10_000, "{shed} of the batches'");
    assert!(answered >= 2 * 20_000 / 60, "{answered}: none waits for long");
    assert!(admission.state().limit < 40, "it has adapted: {}", admission.state().limit);
}
