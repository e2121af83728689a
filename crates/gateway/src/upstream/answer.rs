//! The body of an upstream's answer.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use semel_core::evidence::{AttemptEnd, Lost};
use semel_core::policy::retry::Pushback;
use semel_tower::policy::{Held as _, InFlight};
use tokio::task::AbortHandle;

use super::attempt::BodyTime;
use super::connection::Connection;
use super::intake::Lease;
use super::pool::Pool;
use crate::body::{BodyError, clean_trailers};
use crate::clock;
use crate::timer::LazyTimer;

/// The body of an upstream's answer. It holds the connection, and with it the permit, until it was read to its end;
/// only then does the connection go back to the pool. Dropped before its end, it closes the connection.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Incoming,
    drive: Drive,
    time: BodyTime,
    idle_timeout: Duration,
    /// Since when the body waits for the upstream; `None` while nobody asks for more.
    waiting: bool,
    account: Option<Account>,
    /// The call's place among those in flight, held until the body has ended.
    in_flight: Option<InFlight>,
    cut: Cut,
}

/// The call at the endpoint, under way until the body has ended, and what its head said.
#[derive(Debug)]
struct Account {
    lease: Lease,
    end: AttemptEnd,
    pushback: Pushback,
}

/// A fault on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Never,
    /// Once the body has more than so many bytes.
    After(u64),
    Now,
}

/// Who makes the connection move.
#[derive(Debug)]
enum Drive {
    /// This body.
    Inline(Box<Connection>),
    /// A task, because the request is still being sent: its caller may not read before it has written.
    Task(AbortHandle, LazyTimer),
    /// Nobody any more.
    Over,
}

impl UpstreamBody {
    /// The body of an answer whose head has just arrived on `connection`.
    pub(super) fn new(
        incoming: Incoming,
        mut connection: Box<Connection>,
        time: BodyTime,
        idle_timeout: Duration,
    ) -> Self {
        let mut body = Self {
            incoming,
            drive: Drive::Over,
            time,
            idle_timeout,
            waiting: false,
            account: None,
            in_flight: None,
            cut: Cut::Never,
        };
        if body.incoming.is_end_stream() {
            settle(connection, &mut Context::from_waker(Waker::noop()));
            return body;
        }
        body.drive = if connection.upload_ended() {
            Drive::Inline(connection)
        } else {
            let timer = std::mem::take(&mut connection.timer);
            Drive::Task(connection.detach(), timer)
        };
        body
    }

    /// Tells the endpoint how it did. A body that is taken whole belongs to the answer; one that streams ends when its
    /// reader likes, and only its head says how quick the endpoint is.
    pub(super) fn account_to(&mut self, lease: Lease, end: AttemptEnd, pushback: Pushback) {
        let mut account = Account { lease, end, pushback };
        match (&self.drive, self.time) {
            (Drive::Over, _) => return account.close(),
            (_, BodyTime::WhileItFlows) => account.lease.record(&end, pushback),
            (_, BodyTime::By(_)) => {}
        }
        self.account = Some(account);
    }

    /// The call is in flight until the body has ended.
    pub fn hold(&mut self, mut in_flight: InFlight) {
        if !matches!(self.drive, Drive::Over) {
            in_flight.keep();
            self.in_flight = Some(in_flight);
        }
    }

    /// Breaks the body off after so many bytes, as an upstream would that dies.
    pub fn cut_after(&mut self, bytes: u64) {
        self.cut = Cut::After(bytes);
    }

    /// Gives the rest of the body another time limit.
    pub fn set_time(&mut self, time: BodyTime) {
        if let (BodyTime::WhileItFlows, Some(Account { lease, end, pushback })) = (time, &mut self.account) {
            lease.record(end, *pushback);
        }
        self.time = time;
        self.waiting = false;
    }

    /// After a frame: if it was the last, the connection is free.
    fn finish_if_ended(&mut self, cx: &mut Context<'_>) {
        self.waiting = false;
        if self.incoming.is_end_stream() {
            self.finish(cx);
        }
    }

    fn finish(&mut self, cx: &mut Context<'_>) {
        self.in_flight = None;
        if let Some(account) = self.account.take() {
            account.close();
        }
        match std::mem::replace(&mut self.drive, Drive::Over) {
            Drive::Inline(connection) => settle(connection, cx),
            // The answer is complete: the rest of the request is of no use any more.
            Drive::Task(task, _) => task.abort(),
            Drive::Over => {}
        }
    }

    /// The part of a frame that is not cut off, where the rest is.
    fn cut(&mut self, frame: &Frame<Bytes>) -> Option<Bytes> {
        let (Cut::After(left), Some(data)) = (self.cut, frame.data_ref()) else { return None };
        if let Some(rest) = left.checked_sub(data.len() as u64) {
            self.cut = Cut::After(rest);
            return None;
        }
        self.cut = Cut::Now;
        Some(data.slice(..usize::try_from(left).unwrap_or(data.len())))
    }

    /// The broken or overdue body gives up its connection.
    fn abandon(&mut self, lost: Lost, source: Option<hyper::Error>) -> BodyError {
        if let Drive::Task(task, _) = &self.drive {
            task.abort();
        }
        self.drive = Drive::Over;
        self.in_flight = None;
        if let Some(mut account) = self.account.take() {
            account.lease.record(&AttemptEnd::Lost(lost), Pushback::Unsaid);
        }
        BodyError::Upstream { lost, source }
    }

    /// One look at what hyper has for us, letting the connection work if there is nothing yet.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.drive {
            Drive::Inline(connection) => {
                // Only this task drives the connection: the channel inside hyper needs no waker of its own.
                let mut silent = Context::from_waker(Waker::noop());
                match Pin::new(&mut self.incoming).poll_frame(&mut silent) {
                    Poll::Pending => {
                        let _ = connection.drive(cx);
                        Pin::new(&mut self.incoming).poll_frame(&mut silent)
                    }
                    ready => ready,
                }
            }
            Drive::Task(..) | Drive::Over => Pin::new(&mut self.incoming).poll_frame(cx),
        }
    }

    /// Ready if the upstream has kept us waiting for too long.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = || -> Instant {
            match self.time {
                BodyTime::By(moment) => moment,
                BodyTime::WhileItFlows => clock::now() + self.idle_timeout,
            }
        };
        let start = (!self.waiting).then(limit);
        let timer = match &mut self.drive {
            Drive::Inline(connection) => &mut connection.timer,
            Drive::Task(_, timer) => timer,
            Drive::Over => return Poll::Pending,
        };
        if let Some(deadline) = start {
            timer.set(deadline);
            self.waiting = true;
        }
        timer.poll(cx)
    }
}

impl Account {
    fn close(mut self) {
        self.lease.record(&self.end, self.pushback);
    }
}

/// Lets hyper put the connection into its idle state, then gives it back to the pool; a connection that does not become
/// idle (closed, bytes too many, request not sent to its end) is closed.
fn settle(mut connection: Box<Connection>, cx: &mut Context<'_>) {
    if !connection.is_ready() {
        let _ = connection.drive(cx);
    }
    connection.timer.clear();
    if connection.is_reusable() {
        Pool::put(connection, clock::now());
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.cut == Cut::Now {
            // Others share the endpoint's breaker: what was done on purpose says nothing of the endpoint.
            if let Some(account) = this.account.take() {
                account.close();
            }
            return Poll::Ready(Some(Err(this.abandon(Lost::Truncated, None))));
        }
        match this.poll_incoming(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(first_part) = this.cut(&frame) {
                    return Poll::Ready(Some(Ok(Frame::data(first_part))));
                }
                this.finish_if_ended(cx);
                Poll::Ready(Some(Ok(clean_trailers(frame))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(this.abandon(Lost::Truncated, Some(error))))),
            Poll::Ready(None) => {
                this.finish(cx);
                Poll::Ready(None)
            }
            Poll::Pending => {
                std::task::ready!(this.poll_overdue(cx));
                Poll::Ready(Some(Err(this.abandon(Lost::Timeout, None))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.cut != Cut::Now && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        if let Drive::Task(task, _) = &self.drive {
            task.abort();
        }
    }
}
