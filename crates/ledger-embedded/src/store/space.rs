//! The key spaces: the first byte of every key.

/// Open and unknown effects: the operators' index, and all that start-up must read. Never expires.
pub const LIVE: u8 = 1;
/// Settled, consumed and expired effects.
pub const SETTLED: u8 = 2;
/// The audit log, by time.
pub const AUDIT: u8 = 3;
/// Secrets, scope contracts, and what the engine remembers of itself.
pub const META: u8 = 4;
