//! The body of an answer on its way to the caller.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};

/// Any error of a streamed body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer: in memory, which costs no allocation, or still on its way.
#[derive(Debug)]
pub enum Body {
    /// All of it: it can be kept.
    Whole(Bytes),
    /// Too large to keep, or an event stream: it can only be passed on.
    Streaming(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    /// A body that can only be passed on.
    #[must_use]
    pub fn streaming<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::Streaming(body.map_err(Into::into).boxed_unsync())
    }

    /// All of it, where it is in memory.
    #[must_use]
    pub const fn as_whole(&self) -> Option<&Bytes> {
        match self {
            Self::Whole(bytes) => Some(bytes),
            Self::Streaming(_) => None,
        }
    }
}

impl Default for Body {
    /// Without a byte.
    fn default() -> Self {
        Self::Whole(Bytes::new())
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Whole(bytes.into())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Streaming(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Streaming(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Streaming(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::Full;

    use super::*;

    #[tokio::test]
    async fn a_whole_body_is_one_frame_of_known_size() {
        let mut body = Body::from("abc");
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
        assert!(Body::default().is_end_stream());
    }

    #[tokio::test]
    async fn a_streaming_body_passes_on() {
        let body = Body::streaming(Full::new(Bytes::from_static(b"abc")));
        assert!(body.as_whole().is_none());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    }
}
