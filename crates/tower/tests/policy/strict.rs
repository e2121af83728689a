//! A service that holds its callers to tower's contract.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tower::Service;

/// What one call does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Answers with this status after this time.
    Answer(Duration, u16),
    /// Never answers.
    Hang,
    /// Panics when it is polled.
    Panic,
}

/// Answers each call by its number, from 1. It panics if it is called without having said that it is ready: a clone has
/// not, whatever its original said.
#[derive(Debug)]
pub(crate) struct Strict {
    is_ready: bool,
    pub(crate) seen: Arc<Seen>,
}

#[derive(Debug)]
pub(crate) struct Seen {
    act: fn(u32) -> Act,
    pub(crate) calls: AtomicU32,
    /// Calls whose future lives.
    pub(crate) alive: AtomicU32,
    pub(crate) is_busy: AtomicBool,
    pub(crate) headers: std::sync::Mutex<Vec<http::HeaderMap>>,
}

pub(crate) type Req = Request<String>;

impl Strict {
    pub(crate) fn new(act: fn(u32) -> Act) -> Self {
        let seen = Seen {
            act,
            calls: AtomicU32::new(0),
            alive: AtomicU32::new(0),
            is_busy: AtomicBool::new(false),
            headers: std::sync::Mutex::default(),
        };
        Self { is_ready: false, seen: Arc::new(seen) }
    }

    pub(crate) fn ok() -> Self {
        Self::new(|_| Act::Answer(Duration::ZERO, 200))
    }
}

impl Seen {
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn alive(&self) -> u32 {
        self.alive.load(Ordering::SeqCst)
    }

    pub(crate) fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::SeqCst);
    }

    /// The values of a header, attempt by attempt.
    pub(crate) fn header(&self, name: &str) -> Vec<Option<String>> {
        let headers = self.headers.lock().unwrap();
        headers.iter().map(|headers| headers.get(name).map(|value| value.to_str().unwrap().to_owned())).collect()
    }
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { is_ready: false, seen: Arc::clone(&self.seen) }
    }
}

/// Counts a future as alive.
struct Alive(Arc<Seen>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service<Req> for Strict {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = !self.seen.is_busy.load(Ordering::SeqCst);
        if self.is_ready { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "called without being ready");
        let number = self.seen.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.seen.alive.fetch_add(1, Ordering::SeqCst);
        self.seen.headers.lock().unwrap().push(request.headers().clone());
        let (act, alive) = ((self.seen.act)(number), Alive(Arc::clone(&self.seen)));
        Box::pin(async move {
            let _alive = alive;
            match act {
                Act::Panic => panic!("on purpose"),
                Act::Hang => std::future::pending().await,
                Act::Answer(after, status) => {
                    if !after.is_zero() {
                        tokio::time::sleep(after).await;
                    }
                    Ok(Response::builder().status(status).body(String::new()).unwrap())
                }
            }
        })
    }
}

pub(crate) fn get() -> Req {
    Request::get("/").body("body".to_owned()).unwrap()
}

pub(crate) fn post() -> Req {
    Request::post("/").body("body".to_owned()).unwrap()
}

pub(crate) const MS: fn(u64) -> Duration = Duration::from_millis;

/// The paused clock's time.
#[expect(clippy::disallowed_methods, reason = "the one place of these tests that reads their clock")]
pub(crate) fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
