//! Why a call is cancelled.
//!
//! A future is told nothing when it is dropped. Yet a breaker must know a call that took too long, which is the
//! service's doing, from one whose caller hung up, which is not: otherwise one that accepts everything and answers
//! nothing would never be found out. Who cancels says why, for as long as the drop takes.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// Why calls that are dropped right now are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Why {
    /// Nobody wants the answer any more.
    #[default]
    Unwanted,
    /// No answer in the time that it was given, this much.
    TooSlow {
        /// The time.
        after: Duration,
    },
    /// Another attempt answered first.
    Overtaken,
}

impl Why {
    /// Whether a call that began then is what took so long: at least half of the time was its own. What was dropped with
    /// it may have only just begun, as the last of several attempts, or of several things that a handler does.
    pub(super) fn blames(self, begun: Instant, now: Instant) -> bool {
        matches!(self, Self::TooSlow { after } if now.saturating_duration_since(begun) >= after / 2)
    }
}

thread_local! {
    static WHY: Cell<Why> = const { Cell::new(Why::Unwanted) };
}

struct Restore(Why);

impl Drop for Restore {
    fn drop(&mut self) {
        WHY.set(self.0);
    }
}

/// Drops calls, in `drop`, for this reason.
pub(super) fn cancel(why: Why, drop: impl FnOnce()) {
    let _restore = Restore(WHY.replace(why));
    drop();
}

/// Why the call that is being dropped is.
pub(super) fn why() -> Why {
    WHY.get()
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn a_reason_holds_for_one_drop() {
        assert_eq!(why(), Why::Unwanted);
        let too_slow = Why::TooSlow { after: Duration::from_secs(1) };
        cancel(too_slow, || {
            assert_eq!(why(), too_slow);
            cancel(Why::Overtaken, || assert_eq!(why(), Why::Overtaken));
            assert_eq!(why(), too_slow);
        });
        assert!(catch_unwind(|| cancel(too_slow, || panic!("on purpose"))).is_err());
        assert_eq!(why(), Why::Unwanted);
    }
}
