//! How to reach the database, and how much may wait for it.

use std::path::PathBuf;
use std::time::Duration;

/// How to open a ledger. [`Options::new`] has the defaults.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// `postgres://user:password@host1,host2/database?sslmode=…`. With several hosts the one that takes writes is
    /// found, also after a promotion. Without `sslmode`, TLS is used unless every host is this machine; a server's
    /// certificate is always checked.
    pub url: String,
    /// Where notifications are listened to; the `url` unless that leads through a pooler that shares sessions.
    pub listen_url: Option<String>,
    /// The password, where the URL has none.
    pub password: Option<String>,
    /// PEM file of the authorities that may sign the server's certificate; the system's otherwise.
    pub ca_file: Option<PathBuf>,
    /// The schema that holds the ledger (default `semel`): lower-case letters, digits and `_`, at most 40.
    pub schema: String,
    /// Connections that write (default 4). One more reads, and one more listens.
    pub connections: usize,
    /// How long a call waits for the database to come back (default 5 s): a failover shorter than this is only seen
    /// as a slow answer.
    pub patience: Duration,
    /// Calls that may wait (default 4096); more callers wait for their turn.
    pub queue_len: usize,
    /// How often what has expired is looked for (default 60 s).
    pub sweep_every: Duration,
}

impl Options {
    /// The defaults, for this URL.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            listen_url: None,
            password: None,
            ca_file: None,
            schema: "semel".to_owned(),
            connections: 4,
            patience: Duration::from_secs(5),
            queue_len: 4096,
            sweep_every: Duration::from_secs(60),
        }
    }
}

impl std::fmt::Debug for Options {
    /// Without the URLs: they may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("schema", &self.schema).finish_non_exhaustive()
    }
}
