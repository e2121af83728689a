//! The bodies that cross the gateway, and what can go wrong with them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use semel_core::evidence::Lost;
use semel_tower::policy::InFlight;

use crate::headers::hop;
use crate::upstream::UpstreamBody;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The caller's request body broke: the caller went away, was too slow, or sent something that is not HTTP.
    #[error("the request body broke off")]
    Caller(#[source] hyper::Error),
    /// The caller's request body is larger than its route takes.
    #[error("the request body is larger than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: u64,
    },
    /// The upstream's answer did not arrive whole.
    #[error("the upstream's answer broke off ({lost:?})")]
    Upstream {
        /// What that proves.
        lost: Lost,
        /// The transport's error; a timeout has none.
        #[source]
        source: Option<hyper::Error>,
    },
    /// The answer of an effect, streamed on after its settlement, broke off.
    #[error("the answer of an effect broke off")]
    Effect(#[source] semel_tower::BoxError),
}

/// A request body on its way to an upstream.
#[derive(Debug, Default)]
pub enum RequestBody {
    /// No body.
    #[default]
    Empty,
    /// A whole body. Cloning it shares the bytes: this is the replayable copy.
    Full(Bytes),
    /// A body that streams through and can be sent once.
    Stream(StreamBody),
}

impl RequestBody {
    /// A second copy to send again later; `None` if the body streams.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Full(bytes) => Some(Self::Full(bytes.clone())),
            Self::Stream(_) => None,
        }
    }

    /// The caller's body as it comes, broken off where it is longer than `bytes_max`; a body known to be empty becomes
    /// [`RequestBody::Empty`].
    #[must_use]
    pub fn streaming(body: Incoming, bytes_max: u64) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        Self::Stream(StreamBody { body, bytes_max, bytes: 0, gate: None, end: None })
    }
}

impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Stream(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Stream(stream) => stream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.body.size_hint(),
        }
    }
}

impl BodyError {
    /// Finds the bound that a request body was over among an error's causes.
    pub(crate) fn find_too_large(error: &(dyn std::error::Error + 'static)) -> Option<u64> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(Self::TooLarge { bytes_max }) = error.downcast_ref::<Self>() {
                return Some(*bytes_max);
            }
            cause = error.source();
        }
        None
    }
}

/// Called once when a streaming request body is no longer needed by the connection.
pub(crate) trait UploadEnd: Send + Sync {
    fn upload_ended(&self);
}

/// Opens when the upstream said `100 Continue`, or when it said nothing for too long.
pub(crate) type Gate = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// A streaming request body: pulled from the caller only as fast as the upstream takes it.
pub struct StreamBody {
    body: Incoming,
    bytes_max: u64,
    /// Passed on so far.
    bytes: u64,
    gate: Option<Gate>,
    end: Option<Arc<dyn UploadEnd>>,
}

impl StreamBody {
    /// Holds the body back until `gate` opens: the caller is told to continue only when the upstream was willing.
    pub(crate) fn hold_until(&mut self, gate: Gate) {
        self.gate = Some(gate);
    }

    /// Tells `end` when the connection has finished with this body.
    pub(crate) fn on_end(&mut self, end: Arc<dyn UploadEnd>) {
        self.end = Some(end);
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &mut self.gate {
            std::task::ready!(gate.as_mut().poll(cx));
            self.gate = None;
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            if self.bytes > self.bytes_max {
                return Poll::Ready(Some(Err(BodyError::TooLarge { bytes_max: self.bytes_max })));
            }
        }
        Poll::Ready(frame.map(|frame| frame.map(clean_trailers).map_err(BodyError::Caller)))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end.upload_ended();
        }
    }
}

impl std::fmt::Debug for StreamBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamBody").field("gated", &self.gate.is_some()).finish_non_exhaustive()
    }
}

/// Framing and hop-by-hop fields must not come in by the back door of trailers (RFC 9110, 6.5.1).
pub(crate) fn clean_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    if frame.is_data() {
        return frame;
    }
    match frame.into_trailers() {
        Ok(mut trailers) => {
            hop::strip_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// The body of an answer to the caller.
#[derive(Debug, Default)]
pub enum ResponseBody {
    /// No body.
    #[default]
    Empty,
    /// A whole body.
    Full(Bytes),
    /// The upstream's body, streamed as it comes.
    Upstream(Box<UpstreamBody>),
    /// What was already read of the upstream's body, then the rest of it.
    Resumed(Box<Resumed>),
    /// The answer of an effect that is streamed on.
    Effect(semel_tower::Body),
}

/// A body of which the first part has been read.
#[derive(Debug)]
pub struct Resumed {
    /// What was read so far.
    pub(crate) read: Bytes,
    /// The rest.
    pub(crate) rest: UpstreamBody,
}

impl ResponseBody {
    /// The call is in flight until the upstream's body has ended; where all of it is here, it has.
    pub fn hold(&mut self, in_flight: InFlight) {
        match self {
            Self::Upstream(body) => body.hold(in_flight),
            Self::Resumed(resumed) => resumed.rest.hold(in_flight),
            Self::Empty | Self::Full(_) | Self::Effect(_) => {}
        }
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

impl From<UpstreamBody> for ResponseBody {
    fn from(body: UpstreamBody) -> Self {
        if body.is_end_stream() { Self::Empty } else { Self::Upstream(Box::new(body)) }
    }
}

impl From<semel_tower::Body> for ResponseBody {
    fn from(body: semel_tower::Body) -> Self {
        match body {
            semel_tower::Body::Whole(bytes) => bytes.into(),
            streaming @ semel_tower::Body::Streaming(_) => Self::Effect(streaming),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Upstream(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Resumed(body) => body.poll_frame(cx),
            Self::Effect(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(BodyError::Effect)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Upstream(body) => body.is_end_stream(),
            Self::Resumed(body) => body.is_end_stream(),
            Self::Effect(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Upstream(body) => body.size_hint(),
            Self::Resumed(body) => body.size_hint(),
            Self::Effect(body) => body.size_hint(),
        }
    }
}

impl Resumed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.read.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.read)))));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.len() as u64;
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}
