//! What can be set about the listener.

use std::net::SocketAddr;
use std::time::Duration;

use semel_config::Config;

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
    /// The longest pause in a request's body (default 30 s).
    pub body_idle_timeout: Duration,
    /// The longest pause of a caller that does not read its answer (default 30 s).
    pub write_idle_timeout: Duration,
    /// The slowest pace that is still served, in either direction (default 240 bytes/s, as Kestrel's
    /// `MinRequestBodyDataRate`): one byte every 29 s is no pause, and still an attack. The waits of one message may
    /// add up to one idle timeout and, beyond it, what its bytes take at this pace.
    pub bytes_per_s_min: u32,
    /// How long a drain may take before what is left is cut off (default 20 s).
    pub drain_timeout: Duration,
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
            body_idle_timeout: Duration::from_secs(30),
            write_idle_timeout: Duration::from_secs(30),
            bytes_per_s_min: 240,
            drain_timeout: Duration::from_secs(20),
        }
    }
}

impl From<&Config> for ListenerSettings {
    fn from(config: &Config) -> Self {
        let limits = &config.limits;
        Self {
            connections_max: limits.connections_max,
            head_timeout: limits.header_timeout,
            head_bytes_max: limits.header_bytes_max,
            headers_max: limits.header_count_max,
            idle_timeout: limits.keep_alive_timeout,
            body_idle_timeout: limits.body_idle_timeout,
            write_idle_timeout: limits.write_idle_timeout,
            drain_timeout: limits.drain_timeout,
            ..Self::new(config.listen.http)
        }
    }
}

/// How long a caller is waited for, in one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) idle_timeout: Duration,
    pub(super) bytes_per_s_min: u32,
}

impl Pace {
    /// All waits together that a message may cost of which `bytes` have moved.
    pub(super) fn allowance(&self, bytes: u64) -> Duration {
        let per_s = u64::from(self.bytes_per_s_min.max(1));
        self.idle_timeout + Duration::from_millis(bytes.saturating_mul(1000) / per_s)
    }
}
