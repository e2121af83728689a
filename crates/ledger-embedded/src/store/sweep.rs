//! What becomes of values whose time is over. Nothing scans for them: compaction passes by and asks.

use std::panic::RefUnwindSafe;

/// Decides about expired values. Called from the compaction thread, for expired values only.
pub trait Sweeper: Send + Sync + RefUnwindSafe {
    /// The time by which values expire, in milliseconds since the Unix epoch; `None` while the clock is not trusted.
    fn now_ms(&self) -> Option<u64>;

    /// What becomes of the value of `key`, whose time was over at `now_ms`.
    fn expire(&self, key: &[u8], body: &[u8], now_ms: u64) -> Expired;
}

/// What becomes of an expired value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expired {
    /// It vanishes.
    Vanish,
    /// It stays as it is: it could not be understood.
    Keep,
    /// This takes its place.
    Replace {
        /// When that expires; `None`: never.
        expires_at_ms: Option<u64>,
        /// The new body.
        body: Vec<u8>,
    },
}

/// Sweeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSweep;

impl Sweeper for NoSweep {
    fn now_ms(&self) -> Option<u64> {
        None
    }

    fn expire(&self, _: &[u8], _: &[u8], _: u64) -> Expired {
        Expired::Keep
    }
}
