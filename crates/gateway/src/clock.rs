//! The one place where the gateway reads a clock.

use std::time::{Instant, SystemTime};

/// The monotonic time now. Inside a tokio runtime with paused time it is the runtime's time, so that tests can move it.
#[must_use]
#[inline]
#[expect(clippy::disallowed_methods, reason = "the gateway's one clock")]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The wall clock, for dates in headers only.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "an HTTP date can only be compared with another wall clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
