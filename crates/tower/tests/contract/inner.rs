//! A service that holds the layers over it to tower's contract.

use std::{
    future::pending,
    panic,
    pin::Pin,
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use semel_tower::BoxError;
use tower::Service;

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// An answer with this status after so many milliseconds.
    Answer(u64, u16),
    /// An error.
    Fail,
    /// No answer, ever.
    Hang,
    /// A panic before there is a future.
    PanicInCall,
    /// A panic when it is polled.
    Panic,
    /// An answer whose body breaks off.
    BodyFails,
    /// An answer whose body panics.
    BodyPanics,
}

/// Answers each call by its number, from 1. It panics where an instance is called that has not said that it is ready: a
/// clone has not, whatever its original said.
#[derive(Debug)]
pub(crate) struct Inner {
    is_ready: bool,
    seen: Arc<Seen>,
}

/// What all clones of one [`Inner`] share.
pub(crate) struct Seen {
    act: Box<dyn Fn(u32) -> Act + Send + Sync>,
    calls: AtomicU32,
    /// Instances that are ready and have not been called: in earnest, places that nobody else gets.
    reserved: AtomicU32,
    /// Futures and bodies that live.
    alive: AtomicU32,
    is_busy: AtomicBool,
    is_broken: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

/// An error that only [`Inner`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the inner service failed")]
pub(crate) struct Failed;

pub(crate) type Req = Request<String>;

/// Panics on purpose are not worth a trace: there are thousands.
fn hush() {
    static HUSHED: Once = Once::new();
    HUSHED.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let words = info.payload_as_str();
            if !words.is_some_and(|words| words.contains("on purpose")) {
                loud(info);
            }
        }));
    });
}

impl Inner {
    pub(crate) fn new(act: impl Fn(u32) -> Act + Send + Sync + 'static) -> (Self, Arc<Seen>) {
        hush();
        let seen = Arc::new(Seen {
            act: Box::new(act),
            calls: AtomicU32::new(0),
            reserved: AtomicU32::new(0),
            alive: AtomicU32::new(0),
            is_busy: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            wakers: Mutex::default(),
        });
        (Self { is_ready: false, seen: Arc::clone(&seen) }, seen)
    }

    fn set_ready(&mut self, is_ready: bool) {
        match (std::mem::replace(&mut self.is_ready, is_ready), is_ready) {
            (false, true) => self.seen.reserved.fetch_add(1, Ordering::SeqCst),
            (true, false) => self.seen.reserved.fetch_sub(1, Ordering::SeqCst),
            _ => 0,
        };
    }
}

impl Seen {
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn reserved(&self) -> u32 {
        self.reserved.load(Ordering::SeqCst)
    }

    pub(crate) fn alive(&self) -> u32 {
        self.alive.load(Ordering::SeqCst)
    }

    pub(crate) fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::SeqCst);
        if !is_busy {
            self.wakers.lock().unwrap().drain(..).for_each(Waker::wake);
        }
    }

    pub(crate) fn set_broken(&self) {
        self.is_broken.store(true, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} calls, {} reserved, {} alive", self.calls(), self.reserved(), self.alive())
    }
}

impl Clone for Inner {
    fn clone(&self) -> Self {
        Self { is_ready: false, seen: Arc::clone(&self.seen) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.set_ready(false);
    }
}

/// Counts a future or a body as alive.
#[derive(Debug)]
struct Alive(Arc<Seen>);

impl Alive {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.alive.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(seen))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service<Req> for Inner {
    type Response = Response<Frames>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Frames>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.seen.is_broken.load(Ordering::SeqCst) {
            return Poll::Ready(Err(Failed.into()));
        }
        let is_ready = self.is_ready || !self.seen.is_busy.load(Ordering::SeqCst);
        self.set_ready(is_ready);
        if is_ready {
            return Poll::Ready(Ok(()));
        }
        self.seen.wakers.lock().unwrap().push(cx.waker().clone());
        Poll::Pending
    }

    fn call(&mut self, _: Req) -> Self::Future {
        assert!(self.is_ready, "BROKEN CONTRACT: called without being ready");
        self.set_ready(false);
        let number = self.seen.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let act = (self.seen.act)(number);
        assert_ne!(act, Act::PanicInCall, "on purpose");
        let alive = Alive::new(&self.seen);
        Box::pin(async move {
            match act {
                Act::Answer(after_ms, status) => {
                    if after_ms > 0 {
                        tokio::time::sleep(Duration::from_millis(after_ms)).await;
                    }
                    Ok(answer(alive, act, status))
                }
                Act::BodyFails | Act::BodyPanics => Ok(answer(alive, act, 200)),
                Act::Fail => Err(Failed.into()),
                Act::Hang => pending().await,
                Act::PanicInCall | Act::Panic => panic!("on purpose"),
            }
        })
    }
}

fn answer(alive: Alive, act: Act, status: u16) -> Response<Frames> {
    let body = Frames { left: 2, act, _alive: alive };
    Response::builder().status(status).body(body).unwrap()
}

/// A body of two frames.
#[derive(Debug)]
pub(crate) struct Frames {
    left: u32,
    act: Act,
    _alive: Alive,
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(left) = self.left.checked_sub(1) else { return Poll::Ready(None) };
        self.left = left;
        Poll::Ready(Some(match self.act {
            Act::BodyPanics if left == 0 => panic!("on purpose"),
            Act::BodyFails if left == 0 => Err(Failed.into()),
            _ => Ok(Frame::data(Bytes::from_static(b"frame"))),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}

pub(crate) fn get() -> Req {
    Request::get("/").body("body".to_owned()).unwrap()
}
