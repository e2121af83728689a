//! How long a call counts as in flight.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use semel_core::policy::admission::Ended;

/// How long a layer that bounds calls in flight counts one: [`UntilBodyEnds`] or [`UntilAnswer`].
pub trait Hold<R> {
    /// The answer with what is held until it ends.
    type Answer<P>;

    /// Whether the time that it took until this answer says how busy the inner service is.
    fn ended(answer: &R) -> Ended;

    /// Gives the answer what is held.
    fn hold<P: Held>(answer: R, held: P) -> Self::Answer<P>;
}

/// What is held; given back when it is dropped.
pub trait Held {
    /// It will be held for longer than the answer took.
    fn keep(&mut self);
}

/// Until the body of the HTTP answer ends, fails or is dropped: an answer whose body is still on its way is still work.
#[derive(Clone, Copy, Debug)]
pub struct UntilBodyEnds;

/// Until there is an answer, of any type.
#[derive(Clone, Copy, Debug)]
pub struct UntilAnswer;

impl<R> Hold<R> for UntilAnswer {
    type Answer<P> = R;

    fn ended(_: &R) -> Ended {
        Ended::Completed
    }

    fn hold<P: Held>(answer: R, _: P) -> R {
        answer
    }
}

impl<B: Body> Hold<Response<B>> for UntilBodyEnds {
    type Answer<P> = Response<HeldBody<B, P>>;

    fn ended(answer: &Response<B>) -> Ended {
        Ended::of_status(answer.status())
    }

    fn hold<P: Held>(answer: Response<B>, mut held: P) -> Response<HeldBody<B, P>> {
        answer.map(|body| {
            let has_more = !body.is_end_stream();
            if has_more {
                held.keep();
            }
            HeldBody { held: has_more.then_some(held), body }
        })
    }
}

pin_project! {
    /// A body that holds something until it ends.
    #[derive(Clone, Debug, Default)]
    pub struct HeldBody<B, P> {
        #[pin]
        body: B,
        held: Option<P>,
    }
}

impl<B: Body, P> Body for HeldBody<B, P> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let polled = this.body.as_mut().poll_frame(cx);
        // Who sends the body on may not poll again after the last frame.
        let is_over = match &polled {
            Poll::Ready(Some(Ok(_))) => this.body.is_end_stream(),
            Poll::Ready(Some(Err(_)) | None) => true,
            Poll::Pending => false,
        };
        if is_over {
            *this.held = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
