//! Calls that begin, wait, end, panic and are dropped in any order.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::Response;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use proptest::{prelude::*, strategy::Union, test_runner::TestRunner};
use semel_tower::BoxError;
use tower::{Layer, Service, ServiceExt as _};

use crate::{
    inner::{Act, Inner, get},
    suite::{LONG, Subject, Suite},
};

#[derive(Clone, Copy, Debug)]
enum Step {
    Begin,
    Poll(usize),
    Drop(usize),
    Sleep(u64),
    Busy(bool),
}

/// One caller.
enum Caller<S: Service<crate::inner::Req>, B> {
    Readying(S),
    Waiting(Pin<Box<S::Future>>),
    Reading(Pin<Box<B>>),
}

fn acts() -> impl Strategy<Value = Act> {
    Union::new_weighted(vec![
        (6, (0..80_u64).prop_map(|ms| Act::Answer(ms, 200)).boxed()),
        (2, (0..80_u64).prop_map(|ms| Act::Answer(ms, 503)).boxed()),
        (1, Just(Act::Fail).boxed()),
        (1, Just(Act::Hang).boxed()),
        (1, Just(Act::PanicInCall).boxed()),
        (1, Just(Act::Panic).boxed()),
        (1, Just(Act::BodyFails).boxed()),
        (1, Just(Act::BodyPanics).boxed()),
    ])
}

fn steps() -> impl Strategy<Value = Step> {
    Union::new_weighted(vec![
        (4, Just(Step::Begin).boxed()),
        (8, (0..8_usize).prop_map(Step::Poll).boxed()),
        (2, (0..8_usize).prop_map(Step::Drop).boxed()),
        (3, (1..2_000_u64).prop_map(Step::Sleep).boxed()),
        (1, any::<bool>().prop_map(Step::Busy).boxed()),
    ])
}

impl<L: Layer<Inner, Service: Subject>> Suite<L> {
    /// Whatever happens, in the end nothing is held, and the service works.
    pub(crate) fn weathers_a_storm(&self) {
        let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
        let plans = (proptest::collection::vec(acts(), 1..20), proptest::collection::vec(steps(), 1..120));
        let outcome = TestRunner::new(config).run(&plans, |(acts, steps)| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(self.storm(acts, steps));
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{error}");
        }
    }

    async fn storm(&self, acts: Vec<Act>, steps: Vec<Step>) {
        let (layer, held) = (self.make)();
        let storm_is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let over = Arc::clone(&storm_is_over);
        let (inner, seen) = Inner::new(move |number| {
            let is_over = over.load(std::sync::atomic::Ordering::SeqCst);
            if is_over { Act::Answer(0, 200) } else { acts[number as usize % acts.len()] }
        });
        let service = layer.layer(inner);
        let mut callers = Vec::new();
        for step in steps {
            match step {
                Step::Begin => callers.push(Caller::Readying(service.clone())),
                Step::Poll(at) if at < callers.len() => {
                    let caller = callers.swap_remove(at);
                    callers.extend(poll(caller));
                }
                Step::Drop(at) if at < callers.len() => drop(callers.swap_remove(at)),
                Step::Poll(_) | Step::Drop(_) => {}
                Step::Sleep(ms) => tokio::time::advance(Duration::from_millis(ms)).await,
                Step::Busy(is_busy) => seen.set_busy(is_busy),
            }
            // A hedge has two attempts under way.
            let callers = callers.len() as u32;
            assert!(held() <= callers * self.places.max(1), "{} places held by {callers} callers", held());
            assert!(seen.alive() <= callers * 2, "{} calls of {callers} callers", seen.alive());
        }
        drop(callers);
        assert_eq!((seen.alive(), seen.reserved(), held()), (0, 0, 0), "calls alive, readiness reserved, places held");
        seen.set_busy(false);
        storm_is_over.store(true, std::sync::atomic::Ordering::SeqCst);
        tokio::time::advance(LONG).await;
        let answer = service.oneshot(get()).await.map_err(Into::<BoxError>::into).unwrap();
        assert_eq!(answer.status(), 200, "fine again after the storm");
    }
}

/// Goes on with a caller, unless it is done: answered to the end, refused, or panicked on purpose.
fn poll<S: Subject>(mut caller: Caller<S, S::Bytes>) -> Option<Caller<S, S::Bytes>> {
    let polled = catch_unwind(AssertUnwindSafe(move || {
        let mut cx = Context::from_waker(Waker::noop());
        match &mut caller {
            Caller::Readying(service) => match service.poll_ready(&mut cx) {
                Poll::Ready(ready) => {
                    ready.ok()?;
                    Some(Caller::Waiting(Box::pin(service.call(get()))))
                }
                Poll::Pending => Some(caller),
            },
            Caller::Waiting(call) => match call.as_mut().poll(&mut cx) {
                Poll::Ready(answer) => answer.ok().map(Response::into_body).map(|body| Caller::Reading(Box::pin(body))),
                Poll::Pending => Some(caller),
            },
            Caller::Reading(body) => match Pin::new(&mut body.frame()).poll(&mut cx) {
                Poll::Ready(Some(Ok(_))) if !body.is_end_stream() => Some(caller),
                Poll::Ready(_) => None,
                Poll::Pending => Some(caller),
            },
        }
    }));
    polled.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        assert!(words.is_some_and(|words| words.contains("on purpose")), "{words:?}");
        None
    })
}
