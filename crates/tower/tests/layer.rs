//! The layer over plain tower services and over axum.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, extract::State, routing};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::BodyExt as _;
use semel_core::policy::{breaker::BreakerPolicy, retry::RetryPolicy};
use semel_core::time::Timestamp;
use semel_ledger::model::ModelLedger;
use semel_testkit::simulation::VirtualClock;
use semel_tower::{
    Body, CurrentEffect, Idempotency, IdempotencyBuilder, IdempotencyLayer,
    policy::{BulkheadLayer, Http, HttpRepeat, Policies},
};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

fn builder() -> IdempotencyBuilder {
    let clock = VirtualClock::starting_at(Timestamp::from_millis(1_800_000_000_000));
    let ledger = Arc::new(ModelLedger::with(Arc::new(clock), [7; 32]));
    IdempotencyLayer::builder(ledger, "payments").anonymous()
}

fn post(key: &str, body: &'static str) -> Request<Body> {
    Request::post("/pay").header("idempotency-key", key).body(Body::from(body)).unwrap()
}

fn unkeyed(method: &str) -> Request<Body> {
    Request::builder().method(method).uri("/pay").body(Body::default()).unwrap()
}

/// Status, `Semel-Effect`, body.
async fn told<S>(service: &S, request: Request<Body>) -> (u16, String, String)
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone,
    S::Error: std::fmt::Debug,
{
    let response = service.clone().oneshot(request).await.unwrap();
    let effect = response.headers().get("semel-effect").map_or("", |value| value.to_str().unwrap()).to_owned();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, effect, String::from_utf8(body.to_vec()).unwrap())
}

/// A handler that answers as it is told, and counts.
#[derive(Clone)]
struct Handler<F> {
    calls: Arc<AtomicUsize>,
    answer: F,
}

impl<F> Handler<F> {
    fn new<R>(answer: F) -> Self
    where
        F: Fn(Request<Body>, usize) -> R,
        R: Future<Output = Answer>,
    {
        Self { calls: Arc::default(), answer }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl<F, R> Service<Request<Body>> for Handler<F>
where
    F: Fn(Request<Body>, usize) -> R,
    R: Future<Output = Answer> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = 1 + self.calls.fetch_add(1, Ordering::SeqCst);
        Box::pin((self.answer)(request, call))
    }
}

type Answer = Result<Response<Body>, Failed>;

#[derive(Debug)]
struct Failed;

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the handler failed")
    }
}

impl std::error::Error for Failed {}

fn over<H>(builder: IdempotencyBuilder, handler: &H) -> Idempotency<H>
where
    H: Clone,
{
    builder.build().unwrap().layer(handler.clone())
}

fn counted(call: usize) -> Response<Body> {
    Response::builder().status(201).body(Body::from(format!("call {call}"))).unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_key_one_call() {
    let handler = Handler::new(|_, call| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(counted(call))
    });
    let service = over(builder(), &handler);
    let racing: Vec<_> = (0..64)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { told(&service, post("a", "10")).await })
        })
        .collect();
    for call in racing {
        assert_eq!(call.await.unwrap(), (201, "committed".into(), "call 1".into()));
    }
    assert_eq!(told(&service, post("b", "10")).await.2, "call 2");
    let response = service.clone().oneshot(post("a", "10")).await.unwrap();
    assert_eq!(response.headers()["idempotent-replayed"], "true");
    assert_eq!(told(&service, post("a", "11")).await.0, 422);
    assert_eq!(handler.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_before_the_claim() {
    let handler = Handler::new(|_, call| async move { Ok(counted(call)) });
    let service = over(builder().body_bytes_max(4), &handler);
    assert_eq!(told(&service, unkeyed("POST")).await.0, 400);
    assert_eq!(told(&service, post("a", "12345")).await.0, 413);
    let unannounced = Request::post("/pay").header("idempotency-key", "a");
    let unannounced = unannounced.body(Body::streaming(Pieces(vec!["123", "45"].into_iter()))).unwrap();
    assert_eq!(told(&service, unannounced).await.0, 413);
    let broken = Request::post("/pay").header("idempotency-key", "a").body(Body::streaming(Broken(true))).unwrap();
    assert_eq!(told(&service, broken).await.0, 400);
    let stalled = Request::post("/pay").header("idempotency-key", "a").body(Body::streaming(Stalled)).unwrap();
    assert_eq!(told(&service, stalled).await.0, 408);
    assert_eq!(handler.calls(), 0);
    // None of them burnt the key.
    assert_eq!(told(&service, post("a", "1234")).await.2, "call 1");
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_effect_passes() {
    let handler = Handler::new(|_, call| async move { Ok(counted(call)) });
    let service = over(builder(), &handler);
    for (call, method) in ["GET", "OPTIONS", "PUT", "DELETE"].into_iter().enumerate() {
        assert_eq!(told(&service, unkeyed(method)).await, (201, String::new(), format!("call {}", call + 1)));
    }
    let optional = over(builder().optional(), &handler);
    assert_eq!(told(&optional, unkeyed("POST")).await.2, "call 5");
    assert_eq!(told(&optional, post("a", "")).await.2, "call 6");
    assert_eq!(told(&optional, post("a", "")).await.2, "call 6");
}

#[tokio::test(start_paused = true)]
async fn what_the_handler_s_answer_proves() {
    for (status, mark, effect, calls) in [
        (200, None, "committed", 1),
        (404, None, "committed", 1),
        (429, None, "none", 2),
        (500, None, "unknown", 1),
        (500, Some("none"), "none", 2),
        (500, Some("committed"), "committed", 1),
        (200, Some("unknown"), "unknown", 1),
    ] {
        let handler = Handler::new(move |_, _| async move {
            let mut response = Response::builder().status(status);
            if let Some(mark) = mark {
                response = response.header("semel-effect", mark);
            }
            Ok(response.body(Body::from("mine")).unwrap())
        });
        let service = over(builder(), &handler);
        assert_eq!(told(&service, post("a", "")).await, (status, effect.into(), "mine".into()));
        let again = told(&service, post("a", "")).await;
        assert_eq!(again.0, if effect == "unknown" { 409 } else { status }, "{status} {mark:?}");
        assert_eq!(handler.calls(), calls, "{status} {mark:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_after_it_was_called_leaves_what_nobody_knows() {
    async fn panicking(_: Request<Body>, call: usize) -> Answer {
        assert!(call > 1, "the handler panics");
        Ok(counted(call))
    }
    async fn failing(_: Request<Body>, call: usize) -> Answer {
        if call > 1 { Ok(counted(call)) } else { Err(Failed) }
    }
    async fn breaking(_: Request<Body>, call: usize) -> Answer {
        Ok(if call > 1 { counted(call) } else { Response::new(Body::streaming(Broken(true))) })
    }
    type Called = Pin<Box<dyn Future<Output = Answer> + Send>>;
    let handlers: [fn(Request<Body>, usize) -> Called; 3] = [
        |request, call| Box::pin(panicking(request, call)),
        |request, call| Box::pin(failing(request, call)),
        |request, call| Box::pin(breaking(request, call)),
    ];
    for answer in handlers {
        let handler = Handler::new(answer);
        let service = over(builder(), &handler);
        assert_eq!(told(&service, post("a", "")).await.0, 504);
        assert_eq!(told(&service, post("a", "")).await.0, 409);
        assert_eq!(handler.calls(), 1);
        let handler = Handler::new(answer);
        let service = over(builder().retry_unknown(Duration::from_secs(60)), &handler);
        assert_eq!(told(&service, post("a", "")).await.0, 504);
        assert_eq!(told(&service, post("a", "")).await, (201, "committed".into(), "call 2".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_kept_is_streamed_and_consumed() {
    let handler = Handler::new(|request: Request<Body>, _| async move {
        let events = request.headers().contains_key("accept");
        let mut response = Response::new(Body::streaming(Pieces(vec!["one ", "two ", "three"].into_iter())));
        if events {
            response.headers_mut().insert(CONTENT_TYPE, "text/event-stream; charset=utf-8".parse().unwrap());
        }
        Ok(response)
    });
    let service = over(builder().answer_bytes_max(6), &handler);
    assert_eq!(told(&service, post("large", "")).await, (200, "committed".into(), "one two three".into()));
    assert_eq!(told(&service, post("large", "")).await.0, 409);
    let service = over(builder(), &handler);
    let events = || {
        let mut request = post("events", "");
        request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
        request
    };
    assert_eq!(told(&service, events()).await, (200, "committed".into(), "one two three".into()));
    assert_eq!(told(&service, events()).await.0, 409);
    assert_eq!(told(&service, post("small", "")).await.2, "one two three");
    assert_eq!(told(&service, post("small", "")).await.2, "one two three");
    assert_eq!(handler.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_handler_sees_the_request_and_its_claim() {
    let handler = Handler::new(|request: Request<Body>, _| async move {
        let effect = request.extensions().get::<CurrentEffect>().expect("the claim");
        assert!(effect.lease.check().await.is_ok());
        let own = request.extensions().get::<&'static str>().expect("the request's own extensions");
        let echo = format!("{own} {} {}", request.headers()["idempotency-key"].to_str().unwrap(), effect.key.as_str());
        Ok(Response::new(Body::from(echo)))
    });
    let service = over(builder(), &handler);
    let mut request = post("a", "");
    request.extensions_mut().insert("mine");
    let (_, _, body) = told(&service, request).await;
    assert!(body.starts_with("mine a once-"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_busy_service_turns_away_what_it_never_saw_and_replays_all_the_same() {
    let gate = Arc::new(tokio::sync::Semaphore::new(1));
    let handler = Handler::new(|_, call| async move { Ok(counted(call)) });
    let layer = builder().timeout(Duration::from_secs(2)).build().unwrap();
    let service = layer.layer(tower::limit::ConcurrencyLimit::with_semaphore(handler.clone(), Arc::clone(&gate)));
    assert_eq!(told(&service, post("a", "")).await.2, "call 1");
    let all = gate.acquire().await.unwrap();
    let (status, effect, _) = told(&service, post("b", "")).await;
    assert_eq!((status, effect.as_str()), (504, "none"));
    assert_eq!(told(&service, post("a", "")).await.2, "call 1");
    drop(all);
    assert_eq!(told(&service, post("b", "")).await.2, "call 2");
    assert_eq!(gate.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_policy_refuses_leaves_the_key_usable() {
    let (handler, bulkhead) = (Handler::new(|_, call| async move { Ok(counted(call)) }), BulkheadLayer::new(1));
    let policies = Policies::http().idempotency(builder().build().unwrap()).bulkhead(bulkhead.clone());
    let service = policies.layer(handler);
    bulkhead.bulkhead().try_take().unwrap();
    let (status, effect, _) = told(&service, post("a", "")).await;
    assert_eq!((status, effect.as_str()), (503, "none"));
    bulkhead.bulkhead().give_back();
    assert_eq!(told(&service, post("a", "")).await, (201, "committed".to_owned(), "call 1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_refused_repeat_does_not_make_sure_that_nothing_happened() {
    let handler = Handler::new(|_, _| async { Ok(Response::builder().status(500).body(Body::default()).unwrap()) });
    let http = Http { repeat: HttpRepeat::default().idempotent() };
    let policies = Policies::of(http)
        .idempotency(builder().build().unwrap())
        .retry(RetryPolicy { attempts_max: 9, ..RetryPolicy::default() })
        .breaker(BreakerPolicy::default());
    let service = policies.layer(handler.clone());
    let (status, effect, _) = told(&service, post("a", "")).await;
    assert_eq!((status, effect.as_str(), handler.calls()), (504, "unknown", 5), "the sixth attempt was refused");
    let (status, effect, _) = told(&service, post("b", "")).await;
    assert_eq!((status, effect.as_str(), handler.calls()), (503, "none", 5), "not one was sent");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_hangs_up_cancels_nothing() {
    let handler = Handler::new(|_, call| async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok(counted(call))
    });
    let layer = builder().build().unwrap();
    let service = layer.layer(handler.clone());
    let hung_up = tokio::time::timeout(Duration::from_secs(1), told(&service, post("a", ""))).await;
    assert!(hung_up.is_err());
    layer.effects().drained().await;
    assert_eq!(told(&service, post("a", "")).await.2, "call 1");
    assert_eq!(handler.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_have_keys_of_their_own_unless_told_otherwise() {
    let clock = VirtualClock::starting_at(Timestamp::from_millis(1_800_000_000_000));
    let ledger = Arc::new(ModelLedger::with(Arc::new(clock), [7; 32]));
    let handler = Handler::new(|_, call| async move { Ok(counted(call)) });
    let service = over(IdempotencyLayer::builder(ledger, "payments"), &handler);
    let by = |who: &'static str| {
        let mut request = post("a", "");
        request.headers_mut().insert("authorization", who.parse().unwrap());
        request
    };
    assert_eq!(told(&service, post("a", "")).await.0, 401);
    assert_eq!(told(&service, by("Bearer alice")).await.2, "call 1");
    assert_eq!(told(&service, by("Bearer bob")).await.2, "call 2");
    assert_eq!(told(&service, by("Bearer alice")).await.2, "call 1");
}

#[tokio::test]
async fn an_axum_router_under_the_layer() {
    async fn pay(
        State(charges): State<Arc<AtomicUsize>>,
        body: String,
    ) -> (StatusCode, [(&'static str, &'static str); 1], String) {
        let charge = 1 + charges.fetch_add(1, Ordering::SeqCst);
        (StatusCode::CREATED, [("location", "/charges/1")], format!("charge {charge} of {body}"))
    }
    async fn list(State(charges): State<Arc<AtomicUsize>>) -> String {
        charges.load(Ordering::SeqCst).to_string()
    }
    let app = Router::new()
        .route("/pay", routing::post(pay))
        .layer(builder().build().unwrap())
        .route("/charges", routing::get(list))
        .with_state(Arc::default());
    let ask = async |request: Request<Body>| {
        let response = app.clone().oneshot(request.map(axum::body::Body::new)).await.unwrap();
        let location = response.headers().get("location").cloned();
        (response.status().as_u16(), location, response.into_body().collect().await.unwrap().to_bytes())
    };
    let location = Some("/charges/1".parse().unwrap());
    for _ in 0..3 {
        assert_eq!(ask(post("a", "10")).await, (201, location.clone(), Bytes::from("charge 1 of 10")));
    }
    let charges = Request::get("/charges").body(Body::default()).unwrap();
    assert_eq!(ask(charges).await.2, "1");
}

#[tokio::test]
async fn two_layers_that_mean_different_things_by_one_scope_are_told_apart() {
    let ledger = Arc::new(ModelLedger::new().unwrap());
    let layer = |ledger: &Arc<ModelLedger>| IdempotencyLayer::builder(Arc::clone(ledger) as _, "payments");
    layer(&ledger).build().unwrap().agree().await.unwrap();
    layer(&ledger).keep(Duration::from_secs(1)).build().unwrap().agree().await.unwrap();
    let error = layer(&ledger).anonymous().build().unwrap().agree().await.unwrap_err().to_string();
    assert!(error.contains(r#"principal was "credential" and is now "none""#), "{error}");
}

#[tokio::test]
async fn an_inner_service_of_any_error_and_body() {
    let inner = service_fn(async |request: Request<Body>| {
        let body = request.into_body().collect().await.map_err(|_| "broken")?;
        Ok::<_, &'static str>(Response::new(http_body_util::Full::new(body.to_bytes())))
    });
    let mut service = builder().build().unwrap().layer(inner);
    poll_fn(|cx| Service::<Request<Body>>::poll_ready(&mut service, cx)).await.unwrap();
    let response = service.call(post("a", "hello")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
}

/// A body of several pieces and no announced length.
struct Pieces(std::vec::IntoIter<&'static str>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
    }
}

/// A body that breaks off after a piece.
struct Broken(bool);

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let first = std::mem::take(&mut self.0);
        let piece = Bytes::from_static(b"12");
        Poll::Ready(Some(if first { Ok(Frame::data(piece)) } else { Err(std::io::Error::other("broken off")) }))
    }
}

/// A body that never comes.
struct Stalled;

impl http_body::Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}
