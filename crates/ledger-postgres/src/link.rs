//! A connection that may be decided on: to a primary that keeps what it acknowledges, with the schema of this release.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use semel_core::time::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{AsyncMessage, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::client::Statements;
use crate::hosts::{self, Hosts};
use crate::options::Options;
use crate::sql::timestamp;
use crate::{Error, schema};

/// How long one host may take to answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long its first commit may take, with its standby if it has one.
const ENTER_WITHIN: Duration = Duration::from_secs(2);
/// How long a request to cancel may take.
const CANCEL_WITHIN: Duration = Duration::from_millis(500);
/// After how long a peer that went away without a word is noticed.
const SILENCE_MAX: Duration = Duration::from_secs(6);

/// What a connection is for.
enum Use {
    Decide,
    Listen(mpsc::Sender<String>),
    Unchecked,
}

/// Makes connections.
pub(crate) struct Connector {
    hosts: Hosts,
    listen: Hosts,
    tls: MakeRustlsConnect,
    /// The latest timeline of all servers that were connected to.
    timeline: AtomicI64,
    pub(crate) schema: String,
    pub(crate) statements: Statements,
}

/// A connection. It ends when the link is dropped.
pub(crate) struct Link {
    pub(crate) client: Arc<Client>,
    doubt: Arc<AtomicBool>,
    closed: oneshot::Receiver<()>,
    /// The store's clock when it was opened.
    pub(crate) opened: Timestamp,
    /// Of the server: it rises with each promotion.
    timeline: i64,
}

impl Link {
    /// Returns when the connection is gone.
    pub(crate) async fn closed(&mut self) {
        let _ = (&mut self.closed).await;
    }

    /// Whether the server said that a commit was not passed on to its standby: then what it acknowledged since may be
    /// lost with it.
    pub(crate) fn in_doubt(&self) -> bool {
        self.doubt.load(Ordering::Acquire)
    }
}

impl Connector {
    /// # Errors
    /// When the options cannot be understood.
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        check_name(&options.schema)?;
        let config = config(&options.url, options.password.as_deref())?;
        let listen = match &options.listen_url {
            Some(url) => Hosts::of(&self::config(url, options.password.as_deref())?)?,
            None => Hosts::of(&config)?,
        };
        let hosts = Hosts::of(&config)?;
        let statements = Statements::of(&options.schema);
        Ok(Self {
            hosts,
            listen,
            tls: tls(options)?,
            timeline: AtomicI64::new(0),
            schema: options.schema.clone(),
            statements,
        })
    }

    /// A connection for decisions: to the first host that takes writes and keeps them.
    pub(crate) async fn connect(&self) -> Result<Link, Error> {
        self.first(&self.hosts, &Use::Decide).await
    }

    /// A connection whose notifications go to `heard`. It decides nothing.
    pub(crate) async fn listen(&self, heard: mpsc::Sender<String>) -> Result<Link, Error> {
        self.first(&self.listen, &Use::Listen(heard)).await
    }

    /// A connection before anything was checked but that the server takes writes.
    pub(crate) async fn connect_unchecked(&self) -> Result<Link, Error> {
        self.first(&self.hosts, &Use::Unchecked).await
    }

    /// The host that served does not answer: the next connection is looked for elsewhere first.
    pub(crate) fn is_silent(&self) {
        self.hosts.is_silent();
        self.listen.is_silent();
    }

    /// Lets the server give up what it does on a connection that is about to be dropped: by itself it would not notice.
    pub(crate) async fn cancel(&self, link: &Link) {
        let cancelling = link.client.cancel_token();
        let _ = tokio::time::timeout(CANCEL_WITHIN, cancelling.cancel_query(self.tls.clone())).await;
    }

    async fn first(&self, hosts: &Hosts, purpose: &Use) -> Result<Link, Error> {
        let mut unreachable = Vec::new();
        for (at, host) in hosts.in_turn() {
            match self.try_host(host, purpose).await {
                Ok(link) => {
                    hosts.serves(at);
                    return Ok(link);
                }
                Err(Error::Unreachable(why)) => unreachable.push((hosts::name(host), why)),
                // A primary has said no.
                Err(error) => return Err(error),
            }
        }
        let one = unreachable.len() == 1;
        let each = unreachable.into_iter().map(|(name, why)| if one { why } else { format!("{name}: {why}") });
        Err(Error::Unreachable(each.collect::<Vec<_>>().join("; ")))
    }

    async fn try_host(&self, host: &Config, purpose: &Use) -> Result<Link, Error> {
        let silent = |_| Error::Unreachable("it does not answer".to_owned());
        let opening = async {
            match purpose {
                Use::Decide => {
                    let link = self.open(host, None).await?;
                    schema::check_version(&link.client, &self.schema).await?;
                    Ok(link)
                }
                Use::Listen(heard) => {
                    let link = self.open(host, Some(heard.clone())).await?;
                    let listen = format!("LISTEN \"{}\"", self.schema);
                    link.client.batch_execute(&listen).await.map_err(|e| Error::of(&e))?;
                    Ok(link)
                }
                Use::Unchecked => self.open(host, None).await,
            }
        };
        let mut link = tokio::time::timeout(CONNECT_WITHIN, opening).await.map_err(silent)??;
        if matches!(purpose, Use::Decide) {
            self.enter(&mut link).await?;
        }
        Ok(link)
    }

    /// The first commit of a connection. When it is acknowledged, so is everything that can be read: what a former
    /// primary had written but not passed on before it was killed and started again is passed on now, or this server
    /// is not the one.
    async fn enter(&self, link: &mut Link) -> Result<(), Error> {
        let entering = link.client.query_typed_one(&self.statements.enter, &[]);
        let Ok(row) = tokio::time::timeout(ENTER_WITHIN, entering).await else {
            self.cancel(link).await;
            return Err(Error::Unreachable(
                "it does not commit: its disk or its synchronous standby is gone".to_owned(),
            ));
        };
        let row = row.map_err(|e| Error::of(&e))?;
        if link.in_doubt() {
            return Err(Error::Unreachable("it does not wait for its synchronous standby".to_owned()));
        }
        let read = || Ok((row.try_get(0)?, row.try_get(1)?));
        let (now, timeline) = read().map_err(|e| Error::of(&e))?;
        (link.opened, link.timeline) = (timestamp(now), timeline);
        self.timeline.fetch_max(timeline, Ordering::AcqRel);
        if self.is_outdated(link) {
            return Err(Error::Unreachable(
                "it was the primary before the one that served last; if it was restored on purpose, restart semel"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Whether another server was promoted since this one was the primary. It may not know.
    pub(crate) fn is_outdated(&self, link: &Link) -> bool {
        link.timeline < self.timeline.load(Ordering::Acquire)
    }

    async fn open(&self, config: &Config, heard: Option<mpsc::Sender<String>>) -> Result<Link, Error> {
        let (client, mut connection) = config.connect(self.tls.clone()).await.map_err(|e| Error::of(&e))?;
        let doubt = Arc::new(AtomicBool::new(false));
        let (_open, closed) = oneshot::channel::<()>();
        let noticed = Arc::clone(&doubt);
        tokio::spawn(async move {
            let _open = _open;
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                match message {
                    // Words are translated, the place in the source is not.
                    AsyncMessage::Notice(notice) if notice.routine() == Some("SyncRepWaitForLSN") => {
                        tracing::warn!("the database did not wait for its standby: {}", notice.message());
                        noticed.store(true, Ordering::Release);
                    }
                    AsyncMessage::Notice(notice) => tracing::debug!("the database says: {}", notice.message()),
                    AsyncMessage::Notification(notification) => {
                        let Some(heard) = &heard else { continue };
                        if heard.send(notification.payload().to_owned()).await.is_err() {
                            return;
                        }
                    }
                    _ => {}
                }
            }
        });
        Ok(Link { client: Arc::new(client), doubt, closed, opened: Timestamp::EPOCH, timeline: 0 })
    }
}

fn config(url: &str, password: Option<&str>) -> Result<Config, Error> {
    let unreadable = |error: tokio_postgres::Error| Error::Options(crate::error::in_words(&error));
    let mut config: Config = url.parse().map_err(unreadable)?;
    if let Some(password) = password
        && config.get_password().is_none()
    {
        config.password(password);
    }
    if config.get_application_name().is_none() {
        config.application_name("semel");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_WITHIN);
    }
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    config.keepalives(true).keepalives_idle(SILENCE_MAX / 3).keepalives_interval(SILENCE_MAX / 3).keepalives_retries(2);
    config.tcp_user_timeout(SILENCE_MAX);
    // "prefer" is what an absent sslmode reads as. It would go on without TLS if somebody in between says so.
    if config.get_ssl_mode() == SslMode::Prefer {
        config.ssl_mode(if is_this_machine(&config) { SslMode::Disable } else { SslMode::Require });
    }
    Ok(config)
}

fn is_this_machine(config: &Config) -> bool {
    let local = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
    };
    config.get_hosts().iter().all(local) && config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
}

fn tls(options: &Options) -> Result<MakeRustlsConnect, Error> {
    let mut roots = RootCertStore::empty();
    match &options.ca_file {
        Some(path) => {
            let unreadable =
                |e: String| Error::Options(format!("cannot read authorities from {}: {e}", path.display()));
            let certificates = CertificateDer::pem_file_iter(path).map_err(|e| unreadable(e.to_string()))?;
            for certificate in certificates {
                let added = roots.add(certificate.map_err(|e| unreadable(e.to_string()))?);
                added.map_err(|e| unreadable(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(unreadable("it holds no certificate".to_owned()));
            }
        }
        // None at all is an error only where TLS is used, and is told by the handshake there.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Error::Options(error.to_string()))?;
    Ok(MakeRustlsConnect::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// A name that needs no quoting anywhere, also as a channel and as part of a partition's name.
fn check_name(schema: &str) -> Result<(), Error> {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    if schema.len() <= 40 && schema.bytes().all(fits) && schema.bytes().next().is_some_and(|c| !c.is_ascii_digit()) {
        return Ok(());
    }
    Err(Error::Options(format!("{schema:?} is no name for a schema: lower-case letters, digits and _, at most 40")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_trusted_without_tls() {
        let mode = |url: &str| config(url, None).map(|c| c.get_ssl_mode());
        assert_eq!(mode("postgres://a@localhost/b").unwrap(), SslMode::Disable);
        assert_eq!(mode("postgres://a@127.0.0.1,[::1]/b").unwrap(), SslMode::Disable);
        assert_eq!(mode("postgres://a@127.0.0.1,db.example/b").unwrap(), SslMode::Require);
        assert_eq!(mode("postgres://a@db.example/b?sslmode=prefer").unwrap(), SslMode::Require);
        assert_eq!(mode("postgres://a@db.example/b?sslmode=disable").unwrap(), SslMode::Disable);
        assert!(mode("postgres://a@db.example/b?colour=blue").is_err());
    }

    #[test]
    fn schemas_have_plain_names() {
        for good in ["semel", "a", "_1", "semel_2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "A", "a b", "a\"b", "a'b", "é", &"a".repeat(41)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
