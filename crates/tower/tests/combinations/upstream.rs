//! An upstream that does as it is told, call by call.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use semel_core::policy::{
    backoff::{Backoff, Jitter},
    budget::{RetryBudget, WindowBudget},
    hedge::HedgePolicy,
    retry::RetryPolicy,
};
use semel_tower::policy::{HedgeLayer, HttpRepeat};
use tower::Service;

pub(crate) const MS: fn(u64) -> Duration = Duration::from_millis;

pub(crate) type Req = Request<String>;

/// What becomes of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    Answer { after: Duration, status: u16, retry_after: Option<u32> },
    Hang,
}

/// Answers the call of this number, from 1, as `fate` says.
#[derive(Clone)]
pub(crate) struct Upstream {
    fate: Arc<dyn Fn(u32) -> Fate + Send + Sync>,
    pub(crate) seen: Arc<Seen>,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    calls: AtomicU32,
    alive: AtomicU32,
    headers: Mutex<Vec<HeaderMap>>,
}

impl Upstream {
    pub(crate) fn new(fate: impl Fn(u32) -> Fate + Send + Sync + 'static) -> (Self, Arc<Seen>) {
        let seen = Arc::<Seen>::default();
        (Self { fate: Arc::new(fate), seen: Arc::clone(&seen) }, seen)
    }
}

pub(crate) const fn answer(after_ms: u64, status: u16) -> Fate {
    Fate::Answer { after: Duration::from_millis(after_ms), status, retry_after: None }
}

impl Seen {
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Calls that are neither answered nor cancelled.
    pub(crate) fn alive(&self) -> u32 {
        self.alive.load(Ordering::SeqCst)
    }

    /// The values of a header, call by call.
    pub(crate) fn header(&self, name: &str) -> Vec<String> {
        let headers = self.headers.lock().unwrap();
        headers.iter().map(|headers| headers[name].to_str().unwrap().to_owned()).collect()
    }
}

struct Alive(Arc<Seen>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service<Req> for Upstream {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let number = self.seen.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.seen.alive.fetch_add(1, Ordering::SeqCst);
        self.seen.headers.lock().unwrap().push(request.headers().clone());
        let (fate, alive) = ((self.fate)(number), Alive(Arc::clone(&self.seen)));
        Box::pin(async move {
            let _alive = alive;
            let Fate::Answer { after, status, retry_after } = fate else { return std::future::pending().await };
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
            let response = Response::builder().status(status);
            let response = match retry_after {
                Some(seconds) => response.header("retry-after", seconds),
                None => response,
            };
            Ok(response.body(String::new()).unwrap())
        })
    }
}

pub(crate) fn get() -> Req {
    Request::get("/").body(String::new()).unwrap()
}

/// A call whose caller waits for so long.
pub(crate) fn within(ms: u64) -> Req {
    Request::get("/").header("semel-timeout", ms).body(String::new()).unwrap()
}

/// Waits of exactly 50, 100, 200 ms.
pub(crate) fn retries() -> RetryPolicy {
    RetryPolicy { backoff: Backoff { jitter: Jitter::Fixed, ..Backoff::default() }, ..RetryPolicy::default() }
}

/// A share of the calls, and so many retries a second at least.
pub(crate) fn budget(ratio: f64, per_second: u32) -> Arc<RetryBudget> {
    Arc::new(RetryBudget::Window(WindowBudget::new(now().into_std(), ratio, per_second)))
}

/// Hedges what takes longer than 10 ms.
pub(crate) async fn hedges() -> HedgeLayer<HttpRepeat> {
    let layer = HedgeLayer::http(HedgePolicy { samples_min: 1, ..HedgePolicy::default() });
    layer.latencies().record(MS(10), now().into_std());
    // The quantile is computed anew ten times a second.
    tokio::time::advance(MS(200)).await;
    layer
}

/// The paused clock's time.
#[expect(clippy::disallowed_methods, reason = "the one place of these tests that reads their clock")]
pub(crate) fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
