//! An inner service that insists on tower's contract.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use semel_tower::BoxError;
use tokio::sync::Semaphore;
use tower::{Service, ServiceExt as _};

/// Counts what it is asked, answers when it may, and panics where it is called without having said that *this very
/// instance* is ready.
pub(crate) struct Strict {
    shared: Arc<Shared>,
    is_ready: bool,
}

pub(crate) struct Shared {
    /// Whether instances say that they are ready.
    pub(crate) ready: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
    /// Calls that began.
    pub(crate) calls: AtomicUsize,
    /// Calls that are under way: begun, and neither ended nor dropped.
    pub(crate) running: AtomicUsize,
    /// Each permit lets a call end.
    pub(crate) ends: Semaphore,
    /// Which calls began, by the path's last segment.
    pub(crate) order: Mutex<Vec<String>>,
}

impl Strict {
    /// One that is ready and answers at once.
    pub(crate) fn quick() -> Self {
        let strict = Self::slow();
        strict.shared.ends.add_permits(10_000);
        strict
    }

    /// One that is ready and answers when it may.
    pub(crate) fn slow() -> Self {
        let shared = Shared {
            ready: AtomicBool::new(true),
            wakers: Mutex::default(),
            calls: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            ends: Semaphore::new(0),
            order: Mutex::default(),
        };
        Self { shared: Arc::new(shared), is_ready: false }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

impl Shared {
    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::SeqCst);
        self.wakers.lock().unwrap().drain(..).for_each(Waker::wake);
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        // Readiness is an instance's own.
        Self { shared: Arc::clone(&self.shared), is_ready: false }
    }
}

/// Counts a call as running for as long as it lives.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service<Request<()>> for Strict {
    type Response = Response<Parts>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Parts>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if !self.shared.ready.load(Ordering::SeqCst) {
            self.shared.wakers.lock().unwrap().push(cx.waker().clone());
            return Poll::Pending;
        }
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "called without readiness");
        let path = request.uri().path().trim_start_matches('/').to_owned();
        assert_ne!(path, "panic-in-call");
        self.shared.calls.fetch_add(1, Ordering::SeqCst);
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        self.shared.order.lock().unwrap().push(path.clone());
        let running = Running(Arc::clone(&self.shared));
        Box::pin(async move {
            assert_ne!(path, "panic");
            running.0.ends.acquire().await?.forget();
            match path.as_str() {
                "error" => Err("as asked".into()),
                "busy" => Ok(answer(StatusCode::SERVICE_UNAVAILABLE)),
                _ => Ok(answer(StatusCode::OK)),
            }
        })
    }
}

fn answer(status: StatusCode) -> Response<Parts> {
    let mut answer = Response::new(Parts(["one", "two"].map(Bytes::from).into()));
    *answer.status_mut() = status;
    answer
}

/// A body of several frames.
#[derive(Debug)]
pub(crate) struct Parts(VecDeque<Bytes>);

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(format!("/{path}")).body(()).unwrap()
}

/// The time that layers see: tokio's, which the tests stop.
#[expect(clippy::disallowed_methods, reason = "tests measure by it")]
pub(crate) fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// Polls a future once.
pub(crate) async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    let mut future = Pin::new(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// What any layer over any service owes: it is ready only when the inner one is, its clones work, and it calls no instance
/// that has not said that it is ready.
pub(crate) async fn respects_readiness<S, A>(service: S, shared: &Shared)
where
    S: Service<Request<()>, Response = A, Error = BoxError> + Clone,
{
    shared.set_ready(false);
    let mut waiting = service.clone();
    {
        let mut ready = pin!(waiting.ready());
        assert!(
            poll_fn(|cx| Poll::Ready(ready.as_mut().poll(cx))).await.is_pending(),
            "ready before the inner service"
        );
        shared.set_ready(true);
        assert!(ready.await.is_ok());
    }
    // A ready one is called; its clone must ask for itself.
    let mut other = waiting.clone();
    assert!(waiting.call(get("first")).await.is_ok());
    assert!(other.ready().await.unwrap().call(get("second")).await.is_ok());
    for path in ["third", "fourth"] {
        assert!(service.clone().oneshot(get(path)).await.is_ok());
    }
    assert_eq!(*shared.order.lock().unwrap(), ["first", "second", "third", "fourth"]);
}
