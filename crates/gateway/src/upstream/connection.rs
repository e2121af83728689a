//! One HTTP/1.1 connection to an upstream, driven by whoever uses it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use semel_core::evidence::{AttemptEnd, Lost, NotSent};
use tokio::net::TcpStream;
use tokio::task::unconstrained;

use super::attempt::{Failure, TransportError};
use super::keep_alive;
use super::pool::Slot;
use super::settings::UpstreamSettings;
use super::socket::{Gauge, UpstreamSocket};
use crate::body::{RequestBody, UploadEnd};
use crate::timer::LazyTimer;

/// A connection and its driver.
///
/// hyper's connection future is not spawned: the request that uses the connection polls it. So there is no hand-over
/// between tasks on the hot path, and when an attempt ends nothing else can write to the socket: what
/// [`Gauge::written`] says then is final.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    driver: http1::Connection<UpstreamSocket, RequestBody>,
    finished: bool,
    gauge: Arc<Gauge>,
    upload: Arc<Upload>,
    reused: bool,
    idle_for: Duration,
    keep_alive: bool,
    pub(super) timer: LazyTimer,
    pub(super) idle_since: Instant,
    pub(super) slot: Slot,
}

/// Whether the connection is done with a streaming request body.
#[derive(Debug, Default)]
struct Upload {
    ended: AtomicBool,
}

impl UploadEnd for Upload {
    fn upload_ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Connection {
    /// Speaks HTTP/1.1 over `stream`.
    pub(super) async fn handshake(
        stream: TcpStream,
        slot: Slot,
        settings: &UpstreamSettings,
        now: Instant,
    ) -> hyper::Result<Box<Self>> {
        let gauge = Arc::new(Gauge::default());
        let socket = UpstreamSocket::new(stream, Arc::clone(&gauge));
        let (sender, driver) = http1::Builder::new()
            .max_headers(settings.headers_max)
            .max_header_size(settings.head_bytes_max)
            .max_buf_size(settings.buffer_bytes_max())
            .handshake(socket)
            .await?;
        Ok(Box::new(Self {
            sender,
            driver,
            finished: false,
            gauge,
            upload: Arc::default(),
            reused: false,
            idle_for: if settings.keep_alive { settings.idle_timeout } else { Duration::ZERO },
            keep_alive: settings.keep_alive,
            timer: LazyTimer::default(),
            idle_since: now,
            slot,
        }))
    }

    /// True while an idle connection is younger than the upstream keeps it.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.idle_since) < self.idle_for
    }

    /// True while an idle connection is open and silent, as far as the runtime has noticed.
    pub(super) fn is_quiet(&mut self) -> bool {
        let _ = self.drive(&mut Context::from_waker(Waker::noop()));
        self.is_ready()
    }

    /// True if the connection is worth keeping for another request.
    pub(super) fn is_reusable(&self) -> bool {
        !self.idle_for.is_zero() && self.is_ready()
    }

    /// True if another request may be sent.
    pub(super) fn is_ready(&self) -> bool {
        !self.finished && self.sender.is_ready() && !self.sender.is_closed()
    }

    /// True once the connection needs no more of the streaming request body.
    pub(super) fn upload_ended(&self) -> bool {
        self.upload.ended.load(Ordering::Relaxed)
    }

    /// Lets hyper work. Ready once the connection is over.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.finished {
            return Poll::Ready(());
        }
        match Pin::new(&mut self.driver).poll(cx) {
            Poll::Ready(_) => {
                // An error has been given to whoever waits for the answer or its body.
                self.finished = true;
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Sends a request and waits for the head of its answer until `head_by`.
    ///
    /// On failure the connection is closed *before* its evidence is taken.
    pub(super) async fn exchange(
        mut self: Box<Self>,
        mut request: Request<RequestBody>,
        head_by: Instant,
    ) -> Result<(Response<Incoming>, Box<Self>), Box<Failure>> {
        let streaming = matches!(request.body(), RequestBody::Stream(_));
        self.upload.ended.store(!streaming, Ordering::Relaxed);
        if let RequestBody::Stream(body) = request.body_mut() {
            body.on_end(Arc::clone(&self.upload) as Arc<dyn UploadEnd>);
        }
        self.gauge.dispatch(self.reused);
        self.reused = true;
        self.timer.set(head_by);
        // Only this task drives the connection, so the answer needs no waker of its own; and it must not take part in
        // tokio's budget, which would ask to be woken.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        let driver = &mut self.driver;
        let finished = &mut self.finished;
        let timer = &mut self.timer;
        #[cfg(feature = "failpoints")]
        let gauge = &self.gauge;
        let answered = std::future::poll_fn(|cx| {
            if !*finished {
                *finished = Pin::new(&mut *driver).poll(cx).is_ready();
            }
            if let Poll::Ready(answer) = answer.as_mut().poll(&mut silent()) {
                return Poll::Ready(Some(answer));
            }
            #[cfg(feature = "failpoints")]
            if gauge.written() > 0 {
                let _ = semel_ledger::failpoint::hit("call.after-send");
            }
            if *finished || timer.poll(cx).is_ready() { Poll::Ready(None) } else { Poll::Pending }
        })
        .await;
        match answered {
            Some(Ok(response)) => {
                if self.keep_alive
                    && let Some(idle_for) = keep_alive::timeout(response.headers())
                {
                    self.idle_for = idle_for;
                }
                Ok((response, self))
            }
            Some(Err(mut refused)) => {
                let returned = refused.take_message();
                let written = self.close();
                Err(failure(refused.into_error(), returned, written))
            }
            None => {
                let timed_out = !self.finished;
                let written = self.close();
                // Closing gives back what was never taken from the queue.
                let returned = match answer.as_mut().poll(&mut silent()) {
                    Poll::Ready(Err(mut refused)) => refused.take_message(),
                    _ => None,
                };
                let (lost, error) = if timed_out {
                    (Lost::Timeout, TransportError::HeadTimeout)
                } else {
                    (Lost::ConnectionLost, TransportError::Gone)
                };
                Err(Failure::boxed(end(lost, returned.is_some(), written), error, returned))
            }
        }
    }

    /// Ends the connection and tells how many bytes of the last request the kernel had accepted.
    fn close(self: Box<Self>) -> u64 {
        let gauge = Arc::clone(&self.gauge);
        drop(self);
        gauge.written()
    }

    /// Drives the rest of a connection whose answer overtakes its request in a task of its own, then closes it.
    pub(super) fn detach(mut self: Box<Self>) -> tokio::task::AbortHandle {
        tokio::spawn(async move {
            std::future::poll_fn(|cx| {
                if self.drive(cx).is_ready() || self.is_ready() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        })
        .abort_handle()
    }
}

/// For futures that only move when this task moves them.
fn silent() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// What a failed attempt proves: handed back whole, or nothing written: surely not executed. Anything else: lost.
fn end(lost: Lost, returned: bool, written: u64) -> AttemptEnd {
    match (written, returned) {
        (0, true) => AttemptEnd::NotSent(NotSent::HandedBack),
        (0, false) => AttemptEnd::NotSent(NotSent::NoByteWritten),
        _ => AttemptEnd::Lost(lost),
    }
}

fn failure(error: hyper::Error, returned: Option<Request<RequestBody>>, written: u64) -> Box<Failure> {
    let lost = if error.is_parse() { Lost::Malformed } else { Lost::ConnectionLost };
    Failure::boxed(end(lost, returned.is_some(), written), TransportError::Http(error), returned)
}
