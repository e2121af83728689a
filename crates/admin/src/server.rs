//! The listener: connections, their bounds and their end.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use semel_core::code::Code;
use semel_ledger::Ledger;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};
use tower_service::Service as _;

use crate::{AdminSettings, AdminToken, Hooks, TokenError, api::Api};

/// The longest request head, in bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// What a connection that has to end may take for its last request, beside the request's own time.
const LAST_REQUEST_GRACE: Duration = Duration::from_secs(2);
/// The pause after the system refused a connection (no file descriptors), so that it is not asked in a circle.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The admin API on its address, ready to serve.
pub struct AdminServer {
    listener: TcpListener,
    api: Arc<Api>,
}

/// Reaches the admin API while it serves.
#[derive(Clone)]
pub struct AdminHandle {
    api: Arc<Api>,
}

/// Why the admin API cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be listened on.
    #[error("the admin address {address} cannot be listened on: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// There is no usable token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl AdminError {
    /// The code of its remedy page.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Listen { .. } => Code::CANNOT_LISTEN,
            Self::Token(error) => error.code,
        }
    }
}

impl AdminServer {
    /// Reads the token file (or makes it), takes the address, and adds the admin API's and the ledger's own metrics to
    /// `registry`, which has everybody else's already.
    ///
    /// # Errors
    /// When the token file is not usable or the address cannot be listened on.
    pub async fn bind(
        settings: AdminSettings,
        ledger: Arc<dyn Ledger>,
        registry: Registry,
        hooks: Arc<dyn Hooks>,
    ) -> Result<Self, AdminError> {
        let token = AdminToken::load_or_create(&settings.token_file)?;
        let address = settings.listen;
        let listener = TcpListener::bind(address).await.map_err(|source| AdminError::Listen { address, source })?;
        Ok(Self { listener, api: Arc::new(Api::new(settings, token, ledger, registry, hooks)) })
    }

    /// The address, with the port that the system chose where none was asked for.
    ///
    /// # Errors
    /// When the system does not tell it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Reaches the API while it serves.
    #[must_use]
    pub fn handle(&self) -> AdminHandle {
        AdminHandle { api: Arc::clone(&self.api) }
    }

    /// Serves until `shutdown` is done, then ends the requests at hand within their time. End it last: during a drain
    /// `/readyz` is how others learn of it, and upstreams may still settle.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, api } = self;
        let settings = &api.settings;
        let connections = Arc::new(Semaphore::new(settings.connections_max));
        let (stop, stopping) = watch::channel(());
        let http = http(settings);
        let router = Arc::clone(&api).router();
        let mut tasks = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            while tasks.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&listener, &connections) => accepted,
            };
            let Some((stream, permit)) = accepted else { continue };
            let connection = Connection {
                http: http.clone(),
                router: router.clone(),
                age_max: settings.connection_age_max,
                grace: settings.request_timeout + LAST_REQUEST_GRACE,
                stopping: stopping.clone(),
            };
            tasks.spawn(async move {
                connection.serve(stream).await;
                drop(permit);
            });
        }
        drop(listener);
        drop(stop);
        // Each ends by itself within its grace.
        while tasks.join_next().await.is_some() {}
    }
}

impl AdminHandle {
    /// Reads the token file again, as a reload does; on an error the token in force stays.
    ///
    /// # Errors
    /// As [`AdminToken::load`].
    pub fn reload_token(&self) -> Result<(), TokenError> {
        self.api.reload_token()
    }
}

fn http(settings: &AdminSettings) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(2 * HEAD_BYTES_MAX);
    http
}

/// The next connection, once there is room for one.
async fn accept(listener: &TcpListener, connections: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        // The peer was gone before it was met.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => None,
        Err(error) => {
            tracing::warn!(%error, "the admin API cannot take a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

struct Connection {
    http: http1::Builder,
    router: Router,
    age_max: Duration,
    grace: Duration,
    stopping: watch::Receiver<()>,
}

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        let router = self.router;
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut router = router.clone();
            async move { Ok::<_, Infallible>(unwrap(router.call(request).await)) }
        });
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => return log(ended),
            () = tokio::time::sleep(self.age_max) => {}
            // Nothing is ever sent: it ends when the sender is dropped.
            _ = self.stopping.changed() => {}
        }
        Pin::as_mut(&mut connection).graceful_shutdown();
        if let Ok(ended) = tokio::time::timeout(self.grace, connection).await {
            log(ended);
        }
    }
}

fn unwrap<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

fn log(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the admin API broke");
    }
}
