//! Bodies taken into memory, up to a bound.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::Body;
use hyper::body::Incoming;
use semel_core::evidence::Lost;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::{BodyError, ResponseBody, Resumed, clean_trailers};
use crate::upstream::{BodyTime, UpstreamBody};

/// The memory that buffered request bodies may take, over all runtimes.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Semaphore>);

/// Memory taken by one request body, until dropped.
#[derive(Debug)]
pub struct Taken(#[expect(dead_code, reason = "held until the body is gone")] Option<OwnedSemaphorePermit>);

/// What one permit stands for, in bytes: few enough permits for a semaphore, fine enough for small bodies.
const PERMIT_BYTES: u64 = 1024;

impl Memory {
    /// That many bytes, rounded up to KiB.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        let permits = usize::try_from(bytes_max.div_ceil(PERMIT_BYTES)).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))))
    }

    /// Takes room for so many bytes; none if there is not enough now.
    fn take(&self, bytes: u64) -> Option<Taken> {
        if bytes == 0 {
            return Some(Taken(None));
        }
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).ok()?;
        Arc::clone(&self.0).try_acquire_many_owned(permits).ok().map(|permit| Taken(Some(permit)))
    }
}

/// Why a request body is not in memory.
#[derive(Debug)]
pub enum NotBuffered {
    /// It is larger than the bound.
    TooLarge,
    /// Other bodies fill the memory that there is for them.
    NoMemory,
    /// It broke off.
    Broken(BodyError),
}

/// Reads a request body whole. Its trailers, if any, are dropped: they are not part of what is repeated.
///
/// Room for it is taken before the first byte is read: for its announced length, or for the bound where it has none.
///
/// # Errors
/// [`NotBuffered`]; a body whose announced length is over the bound is refused before it is read.
pub async fn request(mut body: Incoming, bytes_max: u64, memory: &Memory) -> Result<(Bytes, Taken), NotBuffered> {
    if body.size_hint().lower() > bytes_max {
        return Err(NotBuffered::TooLarge);
    }
    let room = body.size_hint().exact().unwrap_or(bytes_max);
    let taken = memory.take(room).ok_or(NotBuffered::NoMemory)?;
    let mut whole = Whole::announced(body.size_hint().lower());
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| NotBuffered::Broken(BodyError::Caller(error)))?;
        if let Ok(data) = frame.into_data() {
            whole.push(data);
            if whole.len() > bytes_max {
                return Err(NotBuffered::TooLarge);
            }
        }
    }
    Ok((whole.into_bytes(), taken))
}

/// The bytes of a body in one piece; a body that came in one piece is not copied.
#[derive(Default)]
struct Whole {
    announced: usize,
    first: Bytes,
    more: BytesMut,
}

impl Whole {
    /// A body of which so many bytes at least are to come: no more than are allowed.
    fn announced(bytes: u64) -> Self {
        Self { announced: usize::try_from(bytes).unwrap_or(0), ..Self::default() }
    }

    fn push(&mut self, data: Bytes) {
        if self.first.is_empty() && self.more.is_empty() {
            self.first = data;
            return;
        }
        if self.more.is_empty() {
            self.more.reserve(self.announced);
            self.more.extend_from_slice(&self.first);
        }
        self.more.extend_from_slice(&data);
    }

    fn len(&self) -> u64 {
        self.first.len().max(self.more.len()) as u64
    }

    fn into_bytes(self) -> Bytes {
        if self.more.is_empty() { self.first } else { self.more.freeze() }
    }
}

/// An answer's body, as far as it was taken into memory.
#[derive(Debug)]
pub enum AnswerBytes {
    /// All of it.
    Whole(Bytes),
    /// It is larger than the bound, or an event stream: what was read, and the rest as it comes.
    Streaming(ResponseBody),
}

/// Reads an answer's body whole unless it is larger than `bytes_max` or never ends by its nature.
///
/// # Errors
/// What it proves that the body did not arrive whole.
pub async fn answer(headers: &HeaderMap, mut body: UpstreamBody, bytes_max: u64) -> Result<AnswerBytes, Lost> {
    if body.size_hint().lower() > bytes_max || is_event_stream(headers) {
        return Ok(AnswerBytes::Streaming(streaming(Bytes::new(), body)));
    }
    let mut whole = Whole::announced(body.size_hint().lower());
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| match error {
            BodyError::Upstream { lost, .. } => lost,
            _ => Lost::Truncated,
        })?;
        if let Ok(data) = clean_trailers(frame).into_data() {
            whole.push(data);
        }
        if whole.len() > bytes_max {
            return Ok(AnswerBytes::Streaming(streaming(whole.into_bytes(), body)));
        }
    }
    Ok(AnswerBytes::Whole(whole.into_bytes()))
}

/// Server-sent events (WHATWG HTML, 9.2) end when the caller goes.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let essence = media_type.map(|value| value.split(|b| *b == b';').next().unwrap_or_default().trim_ascii());
    essence.is_some_and(|essence| essence.eq_ignore_ascii_case(b"text/event-stream"))
}

fn streaming(read: Bytes, mut rest: UpstreamBody) -> ResponseBody {
    rest.set_time(BodyTime::WhileItFlows);
    ResponseBody::Resumed(Box::new(Resumed { read, rest }))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_body_in_one_piece_is_not_copied() {
        let piece = Bytes::from(vec![1; 10]);
        let mut whole = Whole::default();
        whole.push(piece.clone());
        assert_eq!(whole.len(), 10);
        assert_eq!(whole.into_bytes().as_ptr(), piece.as_ptr());
    }

    #[test]
    fn memory_is_given_back() {
        let memory = Memory::new(4096);
        let taken = memory.take(3000).unwrap();
        assert!(memory.take(2048).is_none());
        assert!(memory.take(1024).is_some(), "what is left is enough for a smaller one");
        drop(taken);
        assert!(memory.take(4096).is_some());
        assert!(memory.take(0).is_some());
    }

    #[test]
    fn pieces_are_joined_in_order() {
        let mut whole = Whole::default();
        ["a", "bc", "", "d"].iter().for_each(|piece| whole.push(Bytes::from_static(piece.as_bytes())));
        assert_eq!((whole.len(), whole.into_bytes().as_ref()), (4, &b"abcd"[..]));
    }

    #[test]
    fn event_streams_are_known_by_their_media_type() {
        let mut headers = HeaderMap::new();
        assert!(!is_event_stream(&headers));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("Text/Event-Stream; charset=utf-8"));
        assert!(is_event_stream(&headers));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-streams"));
        assert!(!is_event_stream(&headers));
    }
}
