//! Where this crate reads the time.

use std::time::SystemTime;

use tokio::time::Instant;

/// Monotonic time now; tokio's, so that tests with paused time see theirs.
#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads a clock")]
#[inline]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The wall clock, against which dates in headers are taken.
#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads a clock")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}
