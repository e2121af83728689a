//! A call on its way through the gate.

use std::{
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use semel_core::policy::admission::Ended;
use tower_service::Service;

use super::{
    ReducedCapacity,
    gate::{InFlight, Waiting},
};
use crate::{
    BoxError,
    policy::{hold::Hold, timeout::Elapsed},
};

pin_project! {
    /// The future of an [`AdmissionService`](super::AdmissionService).
    pub struct AdmissionFuture<S: Service<R>, R, H> {
        #[pin]
        state: State<S, R>,
        hold: PhantomData<fn() -> H>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S: Service<R>, R> {
        Refused { refused: ReducedCapacity },
        // Rare, and large: boxed, so that others are small.
        Waiting { call: Option<Box<Call<S, R>>> },
        Running { #[pin] future: S::Future, held: Option<InFlight> },
    }
}

/// A call that has not begun.
struct Call<S, R> {
    inner: S,
    /// Until it begins.
    request: Option<R>,
    /// While it waits in the queue.
    waiting: Option<Waiting>,
    /// When it has a place, and the inner service is asked whether it is ready.
    held: Option<InFlight>,
}

impl<S: Service<R>, R, H> AdmissionFuture<S, R, H> {
    pub(super) fn running(future: S::Future, held: InFlight) -> Self {
        Self { state: State::Running { future, held: Some(held) }, hold: PhantomData }
    }

    pub(super) fn waiting(waiting: Waiting, inner: S, request: R) -> Self {
        let call = Call { inner, request: Some(request), waiting: Some(waiting), held: None };
        Self { state: State::Waiting { call: Some(Box::new(call)) }, hold: PhantomData }
    }

    pub(super) fn refused(refused: ReducedCapacity) -> Self {
        Self { state: State::Refused { refused }, hold: PhantomData }
    }
}

impl<S, R, H> Future for AdmissionFuture<S, R, H>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    H: Hold<S::Response>,
{
    type Output = Result<H::Answer<InFlight>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Refused { refused } => return Poll::Ready(Err((*refused).into())),
                StateProjection::Waiting { call } => {
                    let Some(waiting) = call else { panic!("a future is not polled after it is ready") };
                    let begun = ready!(waiting.poll_begin(cx));
                    *call = None;
                    let (future, held) = begun?;
                    this.state.set(State::Running { future, held: Some(held) });
                }
                StateProjection::Running { future, held } => {
                    let result = ready!(future.poll(cx));
                    let Some(mut held) = held.take() else { panic!("a future is not polled after it is ready") };
                    return Poll::Ready(match result {
                        Ok(answer) => {
                            held.answered(H::ended(&answer));
                            Ok(H::hold(answer, held))
                        }
                        Err(error) => {
                            let error = error.into();
                            // Never sent, refused inside, lost: no measure of work.
                            held.answered(if error.is::<Elapsed>() { Ended::TimedOut } else { Ended::Cancelled });
                            Err(error)
                        }
                    });
                }
            }
        }
    }
}

impl<S, R> Call<S, R>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
{
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<(S::Future, InFlight), BoxError>> {
        if let Some(waiting) = &mut self.waiting {
            let verdict = ready!(waiting.poll_verdict(cx));
            self.waiting = None;
            self.held = Some(verdict.map_err(ReducedCapacity::new)?);
        }
        ready!(self.inner.poll_ready(cx)).map_err(Into::into)?;
        let (Some(request), Some(held)) = (self.request.take(), self.held.take()) else { panic!("a call begins once") };
        Poll::Ready(Ok((self.inner.call(request), held)))
    }
}
