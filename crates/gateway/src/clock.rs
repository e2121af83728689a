//! The one place where the gateway reads a clock.

use std::time::Instant;

/// The monotonic time now. Inside a tokio runtime with paused time it is the runtime's time, so that tests can move it.
#[must_use]
#[inline]
#[expect(clippy::disallowed_methods, reason = "the gateway's one clock")]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
