//! What happens once, under policies that refuse, repeat and cut off.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use semel_core::{
    policy::{
        admission::{AdmissionPolicy, Concurrency, QueuePolicy},
        hedge::HedgePolicy,
        rate_limit::{LimitPolicy, Quota, Reach},
    },
    time::Timestamp,
};
use semel_ledger::model::ModelLedger;
use semel_testkit::simulation::VirtualClock;
use semel_tower::{
    Body, CurrentEffect, IdempotencyLayer,
    policy::{AdmissionLayer, Http, HttpRepeat, Policies, RateLimitLayer},
};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use crate::upstream::{MS, retries};

fn idempotency() -> IdempotencyLayer {
    let clock = VirtualClock::starting_at(Timestamp::from_millis(1_800_000_000_000));
    let ledger = Arc::new(ModelLedger::with(Arc::new(clock), [7; 32]));
    IdempotencyLayer::builder(ledger, "payments").anonymous().build().unwrap()
}

/// Counts its calls, and answers after this time with their number.
fn paying(
    after: Duration,
    status: StatusCode,
) -> (impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone, Arc<AtomicUsize>)
{
    let calls = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&calls);
    let service = service_fn(move |_: Request<Body>| {
        let call = 1 + counted.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(after).await;
            Ok(Response::builder().status(status).body(Body::from(format!("call {call}"))).unwrap())
        }
    });
    (service, calls)
}

fn post(key: &str) -> Request<Body> {
    Request::post("/pay").header("idempotency-key", key).body(Body::from("10")).unwrap()
}

/// Status, `Semel-Effect`, and the body if it is the service's.
async fn told<S, B>(service: &S, request: Request<Body>) -> (u16, String, String)
where
    S: Service<Request<Body>, Response = Response<B>, Error: std::fmt::Debug> + Clone,
    B: http_body::Body<Error: std::fmt::Debug>,
{
    let response = service.clone().oneshot(request).await.unwrap();
    let effect = response.headers().get("semel-effect").map_or("", |value| value.to_str().unwrap()).to_owned();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = if status == StatusCode::CREATED { String::from_utf8(body.to_vec()).unwrap() } else { String::new() };
    (status.as_u16(), effect, body)
}

fn committed(call: &str) -> (u16, String, String) {
    (201, "committed".to_owned(), call.to_owned())
}

fn refused(status: u16) -> (u16, String, String) {
    (status, "none".to_owned(), String::new())
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_burns_no_key_and_a_replay_counts() {
    let quota = Quota::bucket(1, MS(1_000), 2).unwrap();
    let limits = vec![LimitPolicy { name: "all".to_owned(), quota, reach: Reach::Global }];
    let limit = RateLimitLayer::new(limits, |_: &Request<Body>| ()).unwrap();
    let (service, calls) = paying(MS(0), StatusCode::CREATED);
    let service = Policies::http().answering().rate_limit(limit).idempotency(idempotency()).layer(service);
    assert_eq!(told(&service, post("a")).await, committed("call 1"));
    assert_eq!(told(&service, post("a")).await, committed("call 1"));
    assert_eq!(told(&service, post("b")).await, refused(429));
    tokio::time::sleep(MS(1_000)).await;
    assert_eq!(told(&service, post("b")).await, committed("call 2"));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn replays_are_never_shed_and_a_shed_call_burns_no_key() {
    let queue = QueuePolicy { shed_all: 0.0, ..QueuePolicy::default() };
    let admission = AdmissionLayer::new(AdmissionPolicy { concurrency: Concurrency::Fixed(1), queue });
    let (service, calls) = paying(MS(1_000), StatusCode::CREATED);
    let policies = Policies::http()
        .answering()
        .idempotency(idempotency())
        .admission_by(admission.rank_by(semel_tower::policy::ByDeadline));
    let service = policies.layer(service);
    assert_eq!(told(&service, post("a")).await, committed("call 1"));
    let busy = tokio::spawn({
        let service = service.clone();
        async move { told(&service, post("b")).await }
    });
    tokio::time::sleep(MS(500)).await;
    assert_eq!(told(&service, post("c")).await, refused(503), "the one place is taken");
    assert_eq!(told(&service, post("a")).await, committed("call 1"), "and a replay needs none");
    assert_eq!(busy.await.unwrap(), committed("call 2"));
    assert_eq!(told(&service, post("c")).await, committed("call 3"));
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn an_effect_outlives_its_callers_deadline() {
    let (service, calls) = paying(MS(2_000), StatusCode::CREATED);
    let layer = idempotency();
    let service = Policies::http().answering().deadline(MS(60_000)).idempotency(layer.clone()).layer(service);
    let mut hurried = post("a");
    hurried.headers_mut().insert("semel-timeout", 1_000.into());
    let (status, _, _) = told(&service, hurried).await;
    assert_eq!(status, 504);
    layer.effects().drained().await;
    assert_eq!(told(&service, post("a")).await, committed("call 1"));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_knows_is_not_repeated() {
    let (service, calls) = paying(MS(10), StatusCode::BAD_GATEWAY);
    let service = Policies::http().idempotency(idempotency()).retry(retries()).layer(service);
    assert_eq!(told(&service, post("a")).await.1, "unknown");
    assert_eq!(calls.load(Ordering::SeqCst), 1, "a payment may have been made");
    let (service, calls) = paying(MS(10), StatusCode::TOO_MANY_REQUESTS);
    let service = Policies::http().idempotency(idempotency()).retry(retries()).layer(service);
    assert_eq!(told(&service, post("a")).await.1, "none");
    assert_eq!(calls.load(Ordering::SeqCst), 3, "surely none was");
}

#[tokio::test(start_paused = true)]
async fn both_legs_of_a_hedge_carry_one_key() {
    let keys = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&keys);
    let service = service_fn(move |request: Request<Body>| {
        let mut keys = seen.lock().unwrap();
        keys.push(request.extensions().get::<CurrentEffect>().expect("a claim").key.as_str().to_owned());
        let after = if keys.len() == 101 { MS(60_000) } else { MS(10) };
        async move {
            tokio::time::sleep(after).await;
            Ok::<_, Infallible>(Response::builder().status(201).body(Body::from("done")).unwrap())
        }
    });
    let http = Http { repeat: HttpRepeat::default().idempotent() };
    let service = Policies::of(http).idempotency(idempotency()).hedge(HedgePolicy::default()).layer(service);
    for call in 0..100 {
        assert_eq!(told(&service, post(&format!("warm-{call}"))).await, committed("done"));
    }
    // The quantile is computed anew ten times a second.
    tokio::time::sleep(MS(200)).await;
    assert_eq!(told(&service, post("a")).await, committed("done"));
    let keys = keys.lock().unwrap();
    assert_eq!(keys.len(), 102, "the slow one was hedged");
    assert_eq!(keys[100], keys[101]);
    assert_ne!(keys[99], keys[100]);
}
