//! Bodies taken into memory, up to a bound.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::{Body, BoxError};

/// Why a request body is not in memory.
#[derive(Debug)]
pub(super) enum NotBuffered {
    /// It is larger than the bound.
    TooLarge,
    /// It broke off.
    Broken(BoxError),
}

/// Reads a request body whole, at most `bytes_max` of it.
pub(super) async fn whole_request<B>(body: B, bytes_max: usize) -> Result<Bytes, NotBuffered>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(NotBuffered::TooLarge);
    }
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(NotBuffered::TooLarge),
        Err(error) => Err(NotBuffered::Broken(error)),
    }
}

/// Reads an answer's body whole, unless it is larger than `bytes_max` or has no end by its nature: then what was read
/// and the rest as it comes.
pub(super) async fn answer<A>(headers: &HeaderMap, body: A, bytes_max: usize) -> Result<Body, BoxError>
where
    A: http_body::Body<Data = Bytes> + Send + 'static,
    A::Error: Into<BoxError>,
{
    if body.size_hint().lower() > bytes_max as u64 || is_event_stream(headers) {
        return Ok(Body::streaming(body));
    }
    let mut rest = Box::pin(body);
    let mut read = VecDeque::new();
    let mut bytes = 0;
    while let Some(frame) = poll_fn(|cx| rest.as_mut().poll_frame(cx)).await {
        // Trailers are not part of what is kept.
        let Ok(data) = frame.map_err(Into::into)?.into_data() else { continue };
        bytes += data.len();
        read.push_back(data);
        if bytes > bytes_max {
            return Ok(Body::streaming(Resumed { read, rest }));
        }
    }
    Ok(Body::Whole(join(read, bytes)))
}

/// One piece is not copied.
fn join(mut pieces: VecDeque<Bytes>, bytes: usize) -> Bytes {
    if pieces.len() == 1 {
        return pieces.pop_front().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(bytes);
    pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
    whole.freeze()
}

/// Server-sent events (WHATWG HTML, 9.2) end when the caller goes.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// A body of which some was read already.
struct Resumed<A> {
    read: VecDeque<Bytes>,
    rest: Pin<Box<A>>,
}

impl<A: http_body::Body<Data = Bytes>> http_body::Body for Resumed<A> {
    type Data = Bytes;
    type Error = A::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, A::Error>>> {
        match self.read.pop_front() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => self.rest.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self.read.iter().map(|data| data.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + read);
        }
        hint.set_lower(rest.lower() + read);
        hint
    }
}
