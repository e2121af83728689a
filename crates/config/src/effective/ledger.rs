//! Which engine keeps the truth, and how it is reached.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Which ledger engine, and its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerConfig {
    /// `ledger.embedded`: one process, one folder.
    Embedded(EmbeddedLedger),
    /// `ledger.postgres`: any number of gateways, one database.
    Postgres(PostgresLedger),
    /// `ledger.nats`: any number of gateways, one stream.
    Nats(NatsLedger),
}

/// `ledger.embedded = { … }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedLedger {
    /// The folder; relative paths are relative to the working directory.
    pub path: PathBuf,
    /// Free disk space, in bytes, below which new claims are refused while settlements may still use it.
    pub disk_reserve_bytes: u64,
}

/// `ledger.postgres = { … }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresLedger {
    /// The servers, of which the one that takes writes is used.
    pub url: DatabaseUrl,
    /// Where notifications are listened to, when `url` leads through a pooler that shares sessions.
    pub listen_url: Option<DatabaseUrl>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// A PEM file of the authorities that may sign the servers' certificates; the system's otherwise.
    pub ca_file: Option<PathBuf>,
    /// The schema that holds the ledger.
    pub schema: String,
    /// Connections that write.
    pub connections: usize,
    /// How long a call waits for a server to come back.
    pub patience: Duration,
}

/// `ledger.nats = { … }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsLedger {
    /// The servers; those that they know are found through any of them.
    pub url: NatsUrl,
    /// A file that holds the password, or the token.
    pub password_file: Option<PathBuf>,
    /// A PEM file of the authorities that may sign the servers' certificates, besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The servers as a user of the system account, who is told how they write.
    pub system_url: Option<NatsUrl>,
    /// The stream that holds the ledger.
    pub stream: String,
    /// On how many servers each record stands.
    pub replicas: usize,
    /// How long a call waits for the servers to come back.
    pub patience: Duration,
}

/// The URLs of one or several NATS servers. Shown without passwords and tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrl(String);

impl NatsUrl {
    const SCHEMES: [&str; 2] = ["nats://", "tls://"];

    /// URLs that look like some, separated by commas; whoever connects reads them in full.
    ///
    /// # Errors
    /// What is wrong with them, in words that do not hold them.
    pub fn parse(text: &str) -> Result<Self, String> {
        for server in text.split(',') {
            let rest = Self::SCHEMES.iter().find_map(|scheme| server.strip_prefix(scheme));
            let rest = rest.ok_or("each server begins with nats:// or tls://")?;
            let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
            if place.is_empty() || place.starts_with([':', '/']) {
                return Err("it names no host".to_owned());
            }
        }
        if text.contains(char::is_whitespace) {
            return Err("it holds white space".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    /// The whole text, with passwords.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, server) in self.0.split(',').enumerate() {
            let (scheme, rest) = server.split_once("://").unwrap_or(("nats", server));
            let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
            write!(f, "{}{scheme}://", if at == 0 { "" } else { "," })?;
            match user.map(|user| user.split_once(':')) {
                Some(Some((user, _))) => write!(f, "{user}:***@")?,
                // A name without a password is a token.
                Some(None) => f.write_str("***@")?,
                None => {}
            }
            f.write_str(place)?;
        }
        Ok(())
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The URL of a database. Shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

    /// A URL that looks like one; whoever connects reads it in full.
    ///
    /// # Errors
    /// What is wrong with it, in words that do not hold it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = Self::SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
        let rest = rest.ok_or("it does not begin with postgres://")?;
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        if place.is_empty() || place.starts_with(['/', '?']) {
            return Err("it names no host".to_owned());
        }
        if rest.contains(char::is_whitespace) {
            return Err("it holds white space".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    /// The whole URL, with its password.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (base, query) = self.0.split_once('?').map_or((self.0.as_str(), None), |(base, query)| (base, Some(query)));
        let (scheme, rest) = base.split_once("://").unwrap_or(("postgres", base));
        let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        write!(f, "{scheme}://")?;
        match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            Some((user, "")) => write!(f, "{user}@")?,
            Some((user, _)) => write!(f, "{user}:***@")?,
            None => {}
        }
        f.write_str(place)?;
        for (at, parameter) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
            let shown = if parameter.starts_with("password=") { "password=***" } else { parameter };
            write!(f, "{}{shown}", if at == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::{DatabaseUrl, NatsUrl};

    #[test]
    fn passwords_are_not_shown() {
        for (url, shown) in [
            ("postgres://a:se:cr@et@h1,h2:5433/db?sslmode=require", "postgres://a:***@h1,h2:5433/db?sslmode=require"),
            ("postgresql://a@h/db", "postgresql://a@h/db"),
            ("postgres://h/db?user=a&password=secret", "postgres://h/db?user=a&password=***"),
        ] {
            let parsed = DatabaseUrl::parse(url).unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed.expose()), (shown, url));
            assert!(!format!("{parsed:?}").contains("secret"));
        }
    }

    #[test]
    fn neither_are_those_of_nats_nor_its_tokens() {
        for (url, shown) in [
            ("nats://a:se@cr:et@h1:4222,tls://b:secret@h2", "nats://a:***@h1:4222,tls://b:***@h2"),
            ("nats://secret@h", "nats://***@h"),
            ("nats://h1,nats://h2", "nats://h1,nats://h2"),
        ] {
            let parsed = NatsUrl::parse(url).unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed.expose()), (shown, url));
        }
        for bad in ["", "h", "nats://", "nats://a@", "nats://:4222", "nats://h1,h2", "nats://h1, nats://h2"] {
            assert!(NatsUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for bad in
            ["", "localhost", "mysql://h/db", "postgres://", "postgres:///db", "postgres://a@/db", "postgres://h /db"]
        {
            assert!(DatabaseUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
