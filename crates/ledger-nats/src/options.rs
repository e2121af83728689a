//! Where the servers are, and how much may wait for them.

use std::path::PathBuf;
use std::time::Duration;

/// How to open a ledger. [`Options::new`] has the defaults.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// `nats://user:password@host1:4222,nats://host2:4222`; `tls://` for TLS. The other servers of a cluster are found
    /// through any of them.
    pub url: String,
    /// The password, where the URL has a user but no password; without a user, a token.
    pub password: Option<String>,
    /// PEM file of the authorities that may sign the servers' certificates, besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The same servers as a user of the system account: through it the servers are asked whether they write what they
    /// acknowledge through to the disk (`sync_interval: always`). Nobody else is told.
    pub system_url: Option<String>,
    /// The stream that holds the ledger (default `semel`), and the first word of its subjects: lower-case letters,
    /// digits, `_` and `-`, at most 32.
    pub stream: String,
    /// On how many servers each record stands: 3 (the default), 5, or 1 where losing one server's disk may lose the
    /// ledger.
    pub replicas: usize,
    /// How long a call waits for the servers to come back (default 10 s): an election, which takes 4 to 9 s after its
    /// leader died, is then only seen as a slow answer.
    pub patience: Duration,
    /// Calls that may be with the servers at once (default 4096); more callers wait for their turn.
    pub queue_len: usize,
}

impl Options {
    /// The defaults, for this URL.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            password: None,
            ca_file: None,
            system_url: None,
            stream: "semel".to_owned(),
            replicas: 3,
            patience: Duration::from_secs(10),
            queue_len: 4096,
        }
    }
}

impl std::fmt::Debug for Options {
    /// Without the URLs: they may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("stream", &self.stream).finish_non_exhaustive()
    }
}
