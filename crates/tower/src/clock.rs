//! Where this crate reads the time.

use tokio::time::Instant;

/// Monotonic time now; tokio's, so that tests with paused time see theirs.
#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads a clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
