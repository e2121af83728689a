//! A caller's socket as hyper sees it: every byte of framing is read strictly first, and slow callers are cut off.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::framing::{Framing, FramingError, HeadLimits, Phase, Refused};
use super::settings::{ListenerSettings, Pace};
use crate::clock;
use crate::timer::LazyTimer;

/// What the connection's task and its socket tell each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// A request is being served: its answer has not been handed over whole.
    in_flight: AtomicBool,
    /// The caller is in the middle of a message.
    mid_message: AtomicBool,
    /// Why the socket has ended the connection. hyper takes some errors for the end of an idle connection.
    cut_off: OnceLock<CutOff>,
}

impl Shared {
    pub(super) fn begin(&self) {
        self.in_flight.store(true, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.store(false, Ordering::Relaxed);
    }

    /// No request is being served.
    pub(super) fn is_free(&self) -> bool {
        !self.in_flight.load(Ordering::Relaxed)
    }

    /// Why the socket ended the connection, if it did.
    pub(super) fn cut_off(&self) -> Option<CutOff> {
        self.cut_off.get().copied()
    }

    /// The caller has not sent all of a message.
    pub(super) fn is_mid_message(&self) -> bool {
        self.mid_message.load(Ordering::Relaxed)
    }

    /// No request is being served, and none has begun to arrive.
    pub(super) fn is_idle(&self) -> bool {
        self.is_free() && !self.is_mid_message()
    }
}

/// Why a caller was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutOff {
    /// The request's framing is refused.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// The head took too long.
    #[error("the request's head did not arrive in time")]
    SlowHead,
    /// The body came too slowly.
    #[error("the request's body arrived too slowly")]
    SlowBody,
    /// The answer was taken too slowly.
    #[error("the answer was read too slowly")]
    SlowReader,
}

impl CutOff {
    fn kind(self) -> io::ErrorKind {
        match self {
            Self::Framing(_) => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::TimedOut,
        }
    }

    /// Finds the cut-off among an error's causes.
    #[must_use]
    pub fn find(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                return inner.downcast_ref::<Self>().copied();
            }
            cause = error.source();
        }
        None
    }
}

impl From<CutOff> for io::Error {
    fn from(cut_off: CutOff) -> Self {
        Self::new(cut_off.kind(), cut_off)
    }
}

/// Time that the gateway has waited for a caller to move bytes in one direction.
#[derive(Debug, Default)]
struct Patience {
    since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl Patience {
    fn restart(&mut self) {
        *self = Self::default();
    }

    fn moved(&mut self, bytes: u64) {
        self.bytes += bytes;
        if let Some(since) = self.since.take() {
            self.waited += clock::now().saturating_duration_since(since);
        }
    }

    /// When the present wait becomes too long.
    fn ends(&mut self, pace: &Pace) -> Instant {
        let since = *self.since.get_or_insert_with(clock::now);
        let left = pace.allowance(self.bytes).saturating_sub(self.waited);
        since + left.min(pace.idle_timeout)
    }
}

/// The socket of one caller.
#[derive(Debug)]
pub(super) struct CallerSocket {
    stream: TcpStream,
    framing: Framing,
    refused: Option<FramingError>,
    shared: Arc<Shared>,
    read_pace: Pace,
    write_pace: Pace,
    head_timeout: Duration,
    head_since: Option<Instant>,
    reading: Patience,
    read_timer: LazyTimer,
    writing: Patience,
    write_timer: LazyTimer,
}

impl CallerSocket {
    pub(super) fn new(stream: TcpStream, shared: Arc<Shared>, settings: &ListenerSettings) -> Self {
        let pace = |idle_timeout| Pace { idle_timeout, bytes_per_s_min: settings.bytes_per_s_min };
        let limits = HeadLimits { bytes_max: settings.head_bytes_max, headers_max: settings.headers_max };
        Self {
            stream,
            framing: Framing::new(limits),
            refused: None,
            shared,
            read_pace: pace(settings.body_idle_timeout),
            write_pace: pace(settings.write_idle_timeout),
            head_timeout: settings.head_timeout,
            head_since: None,
            reading: Patience::default(),
            read_timer: LazyTimer::default(),
            writing: Patience::default(),
            write_timer: LazyTimer::default(),
        }
    }

    /// The socket itself, for a last word.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Judges the bytes that a read has brought. Returns how many may go on to hyper.
    fn judge(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 <= self.framing.opaque() {
            self.framing.skip(bytes.len() as u64);
            return Ok(bytes.len());
        }
        match self.framing.read(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(Refused { message_start: 0, error }) => Err(self.cut(CutOff::Framing(error))),
            Err(Refused { message_start, error }) => {
                // What came before is whole; the refusal follows at the next read.
                self.refused = Some(error);
                Ok(message_start)
            }
        }
    }

    /// Ends the connection.
    fn cut(&self, cut_off: CutOff) -> io::Error {
        // Only the first reason counts.
        let _ = self.shared.cut_off.set(cut_off);
        cut_off.into()
    }

    /// Notes what the bytes just read mean for the clocks.
    fn advanced(&mut self, read: usize) {
        match self.framing.phase() {
            Phase::Idle => {
                self.head_since = None;
                self.reading.restart();
                self.shared.mid_message.store(false, Ordering::Relaxed);
            }
            Phase::Head => {
                self.head_since.get_or_insert_with(clock::now);
                self.shared.mid_message.store(true, Ordering::Relaxed);
            }
            Phase::Body(_) => {
                self.head_since = None;
                self.reading.moved(read as u64);
                self.shared.mid_message.store(true, Ordering::Relaxed);
            }
        }
        self.writing.restart();
    }

    /// Nothing to read: is the caller too slow? Idle connections are their task's business.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<CutOff> {
        let (ends, cut_off) = match (self.framing.phase(), self.head_since) {
            (Phase::Head, Some(since)) => (since + self.head_timeout, CutOff::SlowHead),
            (Phase::Body(_), _) => (self.reading.ends(&self.read_pace), CutOff::SlowBody),
            _ => return Poll::Pending,
        };
        self.read_timer.set(ends);
        self.read_timer.poll(cx).map(|()| cut_off)
    }

    /// Counts a write, or waits a bounded time for the caller to take more.
    fn poll_wrote(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(Ok(bytes)) => {
                self.writing.moved(bytes as u64);
                Poll::Ready(Ok(bytes))
            }
            Poll::Pending => {
                self.write_timer.set(self.writing.ends(&self.write_pace));
                self.write_timer.poll(cx).map(|()| Err(self.cut(CutOff::SlowReader)))
            }
            failed => failed,
        }
    }
}

impl AsyncRead for CallerSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.refused {
            return Poll::Ready(Err(this.cut(CutOff::Framing(error))));
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                let read = buf.filled().len() - before;
                if read > 0 {
                    let good = this.judge(&buf.filled()[before..]);
                    buf.set_filled(before + good.as_ref().copied().unwrap_or(0));
                    good?;
                    this.advanced(read);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.poll_too_slow(cx).map(|cut_off| Err(this.cut(cut_off))),
        }
    }
}

impl AsyncWrite for CallerSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.poll_wrote(cx, wrote)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.cut_off().is_some() {
            // There may be a last word to say.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.poll_wrote(cx, wrote)
    }
}
