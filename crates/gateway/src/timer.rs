//! A deadline that is cheap to move.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

use crate::clock;

/// One deadline of a connection, moved on every request but registered with the runtime's timer only when needed.
///
/// Moving the deadline later costs nothing: the timer fires at its old time, sees that the deadline has moved and goes
/// back to sleep. A connection with a 3 s timeout thus touches the timer wheel once in 3 s, not once per request.
#[derive(Debug, Default)]
pub(crate) struct LazyTimer {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl LazyTimer {
    /// Sets the moment at which [`LazyTimer::poll`] becomes ready.
    pub(crate) fn set(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
        if let Some(sleep) = &mut self.sleep
            && sleep.deadline().into_std() > deadline
        {
            sleep.as_mut().reset(deadline.into());
        }
    }

    /// Like [`LazyTimer::set`], for a timer that is only ever polled by one task. True if nothing more needs to be done:
    /// the task is registered already and will be woken, no later than at the deadline.
    pub(crate) fn postpone(&mut self, deadline: Instant, now: Instant) -> bool {
        let armed = self.sleep.as_ref().is_some_and(|sleep| {
            let fires = sleep.deadline().into_std();
            now < fires && fires <= deadline
        });
        self.set(deadline);
        armed
    }

    /// Removes the deadline. The runtime's timer may still wake the task once, for nothing.
    pub(crate) fn clear(&mut self) {
        self.deadline = None;
    }

    /// Ready once the deadline has passed; otherwise the task will be woken no later than at the deadline.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        while sleep.as_mut().poll(cx).is_ready() {
            if clock::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline.into());
        }
        Poll::Pending
    }
}
