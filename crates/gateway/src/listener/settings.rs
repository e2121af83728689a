//! What can be set about the listener.

use std::net::SocketAddr;
use std::time::Duration;

/// Where the gateway listens, and the limits of its callers' connections.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// The address to listen on; port 0 lets the system choose one.
    pub address: SocketAddr,
    /// Runtimes, each a thread with its own sockets and connections (default: one for each core).
    pub runtimes: usize,
    /// Open connections over all runtimes (default 16,384). Further ones get a 503 and are closed.
    pub connections_max: usize,
    /// Connections that the kernel may hold before they are accepted, for each runtime (default 1,024).
    pub backlog: u32,
    /// The longest a request's head may take from its first to its last byte (default 10 s).
    pub head_timeout: Duration,
    /// The longest head in bytes (default 32 KiB).
    pub head_bytes_max: usize,
    /// The most header lines in a request (default 100).
    pub headers_max: usize,
    /// How long a connection may be idle between requests (default 75 s).
    pub idle_timeout: Duration,
    /// The pace below which a body is too slow, in either direction.
    pub pace: Pace,
    /// How long a drain may take before what is left is cut off (default 20 s).
    pub drain_timeout: Duration,
}

/// The slowest pace that is still served: a body must move at `bytes_per_s_min` on average, after `grace`.
///
/// Only time in which the gateway waits for the caller counts. The defaults are those of Kestrel's
/// `MinRequestBodyDataRate` (240 bytes/s, 5 s).
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes per second.
    pub bytes_per_s_min: u32,
    /// The wait that is always allowed.
    pub grace: Duration,
}

impl ListenerSettings {
    /// The default settings for this address.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            runtimes: std::thread::available_parallelism().map_or(1, usize::from),
            connections_max: 16 * 1024,
            backlog: 1024,
            head_timeout: Duration::from_secs(10),
            head_bytes_max: 32 * 1024,
            headers_max: 100,
            idle_timeout: Duration::from_secs(75),
            pace: Pace { bytes_per_s_min: 240, grace: Duration::from_secs(5) },
            drain_timeout: Duration::from_secs(20),
        }
    }
}

impl Pace {
    /// The wait allowed for `bytes` that have moved.
    pub(super) fn allowance(&self, bytes: u64) -> Duration {
        let per_s = u64::from(self.bytes_per_s_min.max(1));
        self.grace + Duration::from_millis(bytes.saturating_mul(1000) / per_s)
    }
}
