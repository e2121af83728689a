//! What every layer owes to who is above it and to who is under it.

use std::{
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::Response;
use http_body::Body;
use http_body_util::BodyExt as _;
use semel_tower::BoxError;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt as _};

use crate::inner::{Act, Failed, Inner, Req, Seen, get};

/// A service that a layer under test makes.
pub(crate) trait Subject:
    Service<Req, Response = Response<Self::Bytes>, Error: Into<BoxError> + Debug + Send, Future: Send>
    + Clone
    + Send
    + Sync
    + Unpin
    + 'static
{
    type Bytes: Body<Error: Into<BoxError>> + Debug + Send + 'static;
}

impl<S, B> Subject for S
where
    B: Body<Error: Into<BoxError>> + Debug + Send + 'static,
    S: Service<Req, Response = Response<B>, Error: Into<BoxError> + Debug + Send, Future: Send>
        + Clone
        + Send
        + Sync
        + Unpin
        + 'static,
{
    type Bytes = B;
}

/// A layer, and what is known about it. Each check makes new ones, so that none sees what another has done.
#[derive(Clone, Copy)]
pub(crate) struct Suite<L> {
    /// A layer, and how many places it holds at a moment.
    pub(crate) make: fn() -> (L, Held),
    /// Places that one call takes until its body ends.
    pub(crate) places: u32,
    /// Whether errors come out as they went in; otherwise they become answers.
    pub(crate) fails: bool,
    /// Whether it is always ready, and waits in the call for the inner service to be.
    pub(crate) waits_in_call: bool,
}

pub(crate) type Held = Box<dyn Fn() -> u32>;

/// A layer over a service, and both ends to look at.
struct Over<S> {
    service: S,
    seen: Arc<Seen>,
    held: Held,
}

impl<S> Over<S> {
    fn assert_at_rest(&self, when: &str) {
        let state = (self.seen.alive(), self.seen.reserved(), (self.held)());
        assert_eq!(state, (0, 0, 0), "calls alive, readiness reserved, places held {when}");
    }
}

/// As many rounds as open a breaker, or would, if what is tested counted as a failure.
const ROUNDS: u32 = 30;

impl<L: Layer<Inner, Service: Subject>> Suite<L> {
    pub(crate) async fn run(&self) {
        self.waits_until_the_inner_service_is_ready();
        self.calls_the_instance_that_said_so();
        self.leaks_no_readiness();
        self.tells_when_the_service_is_broken();
        self.passes_errors_on().await;
        self.cancels_what_is_dropped();
        self.survives_panics();
        self.holds_places_until_the_body_ends();
    }

    fn over(&self, act: impl Fn(u32) -> Act + Send + Sync + 'static) -> Over<L::Service> {
        let ((layer, held), (inner, seen)) = ((self.make)(), Inner::new(act));
        Over { service: layer.layer(inner), seen, held }
    }

    fn over_ok(&self) -> Over<L::Service> {
        self.over(|_| Act::Answer(0, 200))
    }

    fn waits_until_the_inner_service_is_ready(&self) {
        let over = self.over_ok();
        let mut service = task::spawn(over.service);
        over.seen.set_busy(true);
        if self.waits_in_call {
            assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
            let mut call = task::spawn(service.call(get()));
            assert_pending!(call.poll());
            over.seen.set_busy(false);
            assert!(call.is_woken(), "who waits for readiness is woken");
            assert_ready_ok!(call.poll());
            return;
        }
        assert_pending!(service.enter(|cx, mut service| service.poll_ready(cx)));
        over.seen.set_busy(false);
        assert!(service.is_woken(), "who waits for readiness is woken");
        assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
        assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)), "asked twice");
        assert_ready_ok!(task::spawn(service.call(get())).poll());
        assert_eq!(over.seen.calls(), 1);
    }

    /// The inner service panics if another one is called.
    fn calls_the_instance_that_said_so(&self) {
        let over = self.over_ok();
        let mut service = task::spawn(over.service.clone());
        for _ in 0..3 {
            assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
            let mut clone = task::spawn(service.clone());
            assert_ready_ok!(clone.enter(|cx, mut clone| clone.poll_ready(cx)));
            assert_ready_ok!(task::spawn(clone.call(get())).poll());
            assert_ready_ok!(task::spawn(service.call(get())).poll());
        }
        assert_eq!(over.seen.calls(), 6);
        over.assert_at_rest("after six calls, with all services still there");
    }

    fn leaks_no_readiness(&self) {
        let over = self.over_ok();
        for _ in 0..ROUNDS {
            let mut service = task::spawn(over.service.clone());
            assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
            drop(service);
            over.assert_at_rest("after readiness was not made use of");
            let mut service = task::spawn(over.service.clone());
            assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
            drop(service.call(get()));
            over.assert_at_rest("after a call that was never polled");
        }
    }

    fn tells_when_the_service_is_broken(&self) {
        let over = self.over_ok();
        over.seen.set_broken();
        let mut service = task::spawn(over.service);
        let ready = assert_ready!(service.enter(|cx, mut service| service.poll_ready(cx)));
        if self.waits_in_call {
            let error = assert_ready!(task::spawn(service.call(get())).poll()).unwrap_err();
            assert!(error.into().is::<Failed>(), "the error is the inner service's");
            return;
        }
        if self.fails {
            assert!(ready.err().unwrap().into().is::<Failed>(), "the error is the inner service's");
            return;
        }
        assert!(ready.is_ok());
        let answer = assert_ready_ok!(task::spawn(service.call(get())).poll());
        assert_eq!((answer.status().as_u16(), over.seen.calls()), (502, 0));
    }

    async fn passes_errors_on(&self) {
        let over = self.over(|_| Act::Fail);
        match over.service.clone().oneshot(get()).await {
            Err(error) => assert!(self.fails && error.into().is::<Failed>(), "the error is the inner service's"),
            Ok(answer) => assert_eq!((self.fails, answer.status().as_u16()), (false, 502)),
        }
        over.assert_at_rest("after an error");
    }

    fn cancels_what_is_dropped(&self) {
        let over = self.over(|_| Act::Hang);
        for _ in 0..ROUNDS {
            let mut call = task::spawn(over.service.clone().oneshot(get()));
            assert_pending!(call.poll());
            assert_eq!(over.seen.alive(), 1);
            assert_eq!((over.held)(), self.places);
            drop(call);
            over.assert_at_rest("after the caller went away");
        }
        assert_eq!(over.seen.calls(), ROUNDS, "callers that went away say nothing about the service");
    }

    fn survives_panics(&self) {
        for act in [Act::PanicInCall, Act::Panic, Act::BodyPanics] {
            let over = self.over(move |number| if number <= ROUNDS { act } else { Act::Answer(0, 200) });
            for _ in 0..ROUNDS {
                let service = over.service.clone();
                let call = catch_unwind(AssertUnwindSafe(|| {
                    let answer = assert_ready_ok!(task::spawn(service.oneshot(get())).poll());
                    let _ = task::spawn(answer.into_body().collect()).poll();
                }));
                assert!(call.is_err());
                over.assert_at_rest("after a panic");
            }
            let answer = assert_ready_ok!(task::spawn(over.service.clone().oneshot(get())).poll());
            assert_eq!(answer.status(), 200, "one that panics takes nothing with it");
        }
    }

    fn holds_places_until_the_body_ends(&self) {
        let over = self.over(|number| if number % 3 == 0 { Act::BodyFails } else { Act::Answer(0, 200) });
        for how in ["read to its last frame", "dropped", "broken off"] {
            let answer = assert_ready_ok!(task::spawn(over.service.clone().oneshot(get())).poll());
            assert_eq!((over.held)(), self.places, "with an answer");
            let mut body = Box::pin(answer.into_body());
            let mut frame = || matches!(task::spawn(body.frame()).poll(), Poll::Ready(Some(Ok(_))));
            assert!(frame());
            assert_eq!((over.held)(), self.places, "half a body is still an answer");
            match how {
                "dropped" => drop(body),
                _ => {
                    assert_eq!(frame(), how == "read to its last frame");
                    assert_eq!((over.held)(), 0, "{how}, whether or not somebody asks for more");
                    drop(body);
                }
            }
            over.assert_at_rest("after the body");
        }
    }
}

/// Time enough for breakers to close and queues to forget.
pub(crate) const LONG: Duration = Duration::from_secs(3_600);
