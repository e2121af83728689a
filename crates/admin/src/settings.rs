//! What the admin listener needs to know.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use semel_config::Config;

/// Where and for whom the admin API answers, and its bounds.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The file with the token; made with mode 0600 when missing.
    pub token_file: PathBuf,
    /// Names accepted in Host beside IP addresses and localhost (against DNS rebinding). Lower case, no port.
    pub allowed_hosts: Vec<String>,
    /// Origins from which a browser may use the API, beside its own. As a browser writes them.
    pub allowed_origins: Vec<String>,
    /// Whether reading effects and the audit log needs the token too. Default: where the address is not a loopback one.
    pub reads_need_token: bool,
    /// Connections at a time; more wait in the listen queue. Default: 128.
    pub connections_max: usize,
    /// How long a connection lives before it is closed after the request it is at, so that none is held for ever.
    /// Default: 60 s.
    pub connection_age_max: Duration,
    /// Time for a complete request head. Default: 5 s.
    pub header_timeout: Duration,
    /// Time for one request with its body. Default: 10 s.
    pub request_timeout: Duration,
    /// The largest request body, in bytes. Default: 2 MiB, room for the default answer cap of 1 MiB in base 64.
    pub body_bytes_max: usize,
    /// Settlements by upstreams under way at a time; more are told to come again. Default: 64.
    pub outcomes_max: usize,
}

impl AdminSettings {
    /// The settings of this configuration, with the default bounds.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let admin = &config.admin;
        Self {
            allowed_hosts: admin.allowed_hosts.clone(),
            allowed_origins: admin.allowed_origins.clone(),
            ..Self::at(config.listen.admin, admin.token_file.clone())
        }
    }

    /// The defaults for this address and token file.
    #[must_use]
    pub fn at(listen: SocketAddr, token_file: PathBuf) -> Self {
        Self {
            listen,
            token_file,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            reads_need_token: !listen.ip().is_loopback(),
            connections_max: 128,
            connection_age_max: Duration::from_secs(60),
            header_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            body_bytes_max: 2 << 20,
            outcomes_max: 64,
        }
    }
}
