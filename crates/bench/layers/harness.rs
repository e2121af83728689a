//! Calls a service as a server would, without one.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use divan::{Bencher, black_box};
use tower::Service;

/// Answers at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtOnce;

/// Answers when it is polled for the second time: as a call over a network does at best.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits;

/// The future of [`Waits`].
pub(crate) struct Once(bool);

impl Service<u64> for AtOnce {
    type Response = u64;
    type Error = Infallible;
    type Future = std::future::Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        std::future::ready(Ok(black_box(request)))
    }
}

impl Service<u64> for Waits {
    type Response = u64;
    type Error = Infallible;
    type Future = Once;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: u64) -> Once {
        Once(false)
    }
}

impl Future for Once {
    type Output = Result<u64, Infallible>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(Ok(1)) } else { Poll::Pending }
    }
}

/// One call after the other on this service.
pub(crate) fn calls<S: Service<u64>>(bencher: Bencher<'_, '_>, service: S) {
    calls_of(bencher, || 1, service);
}

/// The same with requests of any type, whose making counts.
pub(crate) fn calls_of<S: Service<R>, R>(bencher: Bencher<'_, '_>, request: fn() -> R, mut service: S) {
    bencher.bench_local(|| one(&mut service, request()));
}

fn one<S: Service<R>, R>(service: &mut S, request: R) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    let ready = service.poll_ready(&mut context);
    assert!(matches!(ready, Poll::Ready(Ok(()))));
    let mut call = pin!(service.call(request));
    loop {
        if let Poll::Ready(result) = call.as_mut().poll(&mut context) {
            return result.is_ok();
        }
    }
}
