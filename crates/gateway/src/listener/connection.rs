//! One caller's connection, from accept to close.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Handler;
use super::drain::Drain;
use super::refusal;
use super::settings::ListenerSettings;
use super::socket::{CallerSocket, CutOff, Shared};
use crate::body::{BodyError, ResponseBody};
use crate::clock;
use crate::headers::forwarded::Peer;
use crate::problem;
use crate::timer::LazyTimer;

/// Marks the connection as serving until it is dropped.
struct InFlight(Arc<Shared>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A body whose end is noticed.
struct Served {
    body: ResponseBody,
    _in_flight: InFlight,
}

impl Body for Served {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves a connection until it ends, is idle for too long, or is drained. Returns why it was cut off, if it was.
pub(super) async fn serve<H: Handler>(
    stream: TcpStream,
    handler: Arc<H>,
    peer: Arc<Peer>,
    settings: Arc<ListenerSettings>,
    drain: Arc<Drain>,
) -> Option<CutOff> {
    let shared = Arc::new(Shared::default());
    let socket = CallerSocket::new(stream, Arc::clone(&shared), &settings);
    let service = service_fn(|request| {
        shared.begin();
        let in_flight = InFlight(Arc::clone(&shared));
        let (handler, peer) = (Arc::clone(&handler), Arc::clone(&peer));
        // The handler's future is made in here: captured, it would be moved when it is first polled.
        async move {
            let answer = handler.handle(request, peer).await;
            Ok::<_, Infallible>(answer.map(|body| Served { body, _in_flight: in_flight }))
        }
    });
    let mut connection = http1::Builder::new()
        .max_headers(settings.headers_max)
        .max_header_size(settings.head_bytes_max)
        .max_buf_size(settings.head_bytes_max.max(BUFFER_BYTES))
        .serve_connection(TokioIo::new(socket), service);
    let ended = drive(&mut connection, &shared, &settings, &drain).await;
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
    }
    let unread = shared.is_mid_message();
    let cut_off = shared.cut_off();
    match cut_off.and_then(problem::of_cut_off) {
        Some(problem) if shared.is_free() => refusal::send(into_stream(connection), &problem).await,
        _ if unread => refusal::linger(into_stream(connection)).await,
        _ => {}
    }
    cut_off
}

fn into_stream<S>(connection: http1::Connection<TokioIo<CallerSocket>, S>) -> TcpStream
where
    S: Service<Request<Incoming>, Response = Response<Served>, Error = Infallible>,
{
    connection.into_parts().io.into_inner().into_stream()
}

/// hyper buffers that much of an answer before it waits for the caller to take some.
const BUFFER_BYTES: usize = 64 * 1024;

async fn drive<S>(
    connection: &mut http1::Connection<TokioIo<CallerSocket>, S>,
    shared: &Shared,
    settings: &ListenerSettings,
    drain: &Drain,
) -> hyper::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<Served>, Error = Infallible>,
{
    let mut drained = pin!(drain.begun());
    let mut watching = false;
    let mut draining = false;
    let mut idle = false;
    let mut timer = LazyTimer::default();
    poll_fn(|cx| {
        // The waker of a task does not change: registered once, the drain will find it.
        if !std::mem::replace(&mut watching, true) {
            let _ = drained.as_mut().poll(cx);
        }
        loop {
            if !draining && drain.has_begun() {
                draining = true;
                Pin::new(&mut *connection).graceful_shutdown();
            }
            if let Poll::Ready(ended) = Pin::new(&mut *connection).poll(cx) {
                return Poll::Ready(ended);
            }
            if !shared.is_idle() {
                idle = false;
                return Poll::Pending;
            }
            if !std::mem::replace(&mut idle, true) {
                let now = clock::now();
                if timer.postpone(now + settings.idle_timeout, now) {
                    return Poll::Pending;
                }
            }
            if draining || timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
            // Idle for too long: hyper closes what is idle.
            draining = true;
            Pin::new(&mut *connection).graceful_shutdown();
        }
    })
    .await
}
