//! Callers' connections: accept, read strictly, serve, drain.
//!
//! There is one single-threaded runtime for each core, with sockets of its own on the same port (`SO_REUSEPORT`): a
//! request never changes threads. Measured here: a runtime per core costs 6 % less CPU than one with several threads.

mod connection;
mod counts;
mod drain;
mod framing;
mod refusal;
mod settings;
mod socket;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use semel_core::problem::{Problem, ProblemKind};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use self::counts::ListenerCounts;
pub use self::framing::FramingError;
pub use self::settings::ListenerSettings;
pub use self::socket::CutOff;

use self::drain::Drain;
use crate::body::ResponseBody;
use crate::headers::forwarded::Peer;

/// Answers requests. Each runtime has a handler of its own.
pub trait Handler: Send + Sync + 'static {
    /// A caller has connected.
    fn connected(&self, address: SocketAddr) -> Peer;

    /// Answers one request. Dropped if the caller hangs up: what must go on runs in a task of its own.
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send;

    /// Awaited, within the drain's bound, after the last connection of the runtime has closed: the place to wait for
    /// what outlives its callers.
    fn finished(self: Arc<Self>) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Why the gateway cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    /// The address asked for.
    pub address: SocketAddr,
    /// The operating system's error.
    #[source]
    pub source: io::Error,
}

/// Sockets that are bound but not served yet.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<std::net::TcpListener>,
    address: SocketAddr,
    settings: Arc<ListenerSettings>,
}

/// A listener at work.
#[derive(Debug)]
pub struct Running {
    drains: Vec<Arc<Drain>>,
    threads: Vec<JoinHandle<()>>,
    counts: Arc<ListenerCounts>,
    address: SocketAddr,
}

impl Listener {
    /// Binds the sockets, so that a wrong address is known before anything starts.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub fn bind(settings: ListenerSettings) -> Result<Self, ListenError> {
        let runtimes = settings.runtimes.max(1);
        let mut address = settings.address;
        let error = |address| move |source| ListenError { address, source };
        // Sockets that share a port would also share it with another gateway's, and each would get some of the callers:
        // only a socket that does not share finds out that somebody listens already.
        drop(bind_one(address, settings.backlog, false).map_err(error(address))?);
        let mut sockets = Vec::with_capacity(runtimes);
        for _ in 0..runtimes {
            let socket = bind_one(address, settings.backlog, runtimes > 1).map_err(error(address))?;
            // With port 0 the first socket finds out the port of all.
            address = socket.local_addr().map_err(error(address))?;
            sockets.push(socket);
        }
        Ok(Self { sockets, address, settings: Arc::new(settings) })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts a thread for each runtime. `handler` is called in each of them, with the runtime's number.
    ///
    /// # Errors
    /// If a thread or its runtime cannot be made; those already started are stopped.
    pub fn start<H, F>(self, handler: F) -> io::Result<Running>
    where
        H: Handler,
        F: Fn(usize) -> Arc<H> + Clone + Send + 'static,
    {
        let mut running =
            Running { drains: Vec::new(), threads: Vec::new(), counts: Arc::default(), address: self.address };
        for (number, socket) in self.sockets.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let drain = Arc::new(Drain::default());
            let worker = Worker {
                settings: Arc::clone(&self.settings),
                drain: Arc::clone(&drain),
                counts: Arc::clone(&running.counts),
            };
            let handler = handler.clone();
            let thread = runtime.and_then(|runtime| {
                std::thread::Builder::new().name(format!("semel-http-{number}")).spawn(move || {
                    runtime.block_on(async move { worker.run(socket, handler(number)).await });
                    runtime.shutdown_timeout(Duration::ZERO);
                })
            });
            match thread {
                Ok(thread) => {
                    running.drains.push(drain);
                    running.threads.push(thread);
                }
                Err(error) => {
                    running.stop();
                    return Err(error);
                }
            }
        }
        Ok(running)
    }
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it counts.
    #[must_use]
    pub fn counts(&self) -> &Arc<ListenerCounts> {
        &self.counts
    }

    /// Begins to drain: no new connections, idle ones closed, requests finished. Returns at once.
    pub fn drain(&self) {
        for drain in &self.drains {
            drain.start();
        }
    }

    /// Drains and waits, no longer than the drain's bound; blocks the calling thread. False if a runtime has panicked.
    pub fn stop(mut self) -> bool {
        self.drain();
        let threads = std::mem::take(&mut self.threads);
        threads.into_iter().map(JoinHandle::join).fold(true, |all, ended| all & ended.is_ok())
    }
}

fn bind_one(address: SocketAddr, backlog: u32, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// One runtime's part of the listener.
struct Worker {
    settings: Arc<ListenerSettings>,
    drain: Arc<Drain>,
    counts: Arc<ListenerCounts>,
}

/// Refused connections that may linger at once, for each runtime.
const REFUSALS_MAX: usize = 64;

/// After an error that only time heals (no descriptors, no memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Worker {
    async fn run<H: Handler>(self, socket: std::net::TcpListener, handler: Arc<H>) {
        let accepting = self.accept(socket, &handler);
        tokio::select! {
            biased;
            () = self.drain.begun() => {}
            () = accepting => {}
        }
        let drained = async {
            self.drain.finished().await;
            handler.finished().await;
        };
        if tokio::time::timeout(self.settings.drain_timeout, drained).await.is_err() {
            tracing::warn!("the drain took too long; what is left is cut off");
        }
    }

    /// Accepts until dropped.
    async fn accept<H: Handler>(&self, socket: std::net::TcpListener, handler: &Arc<H>) {
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(%error, "the listener cannot be served");
                return;
            }
        };
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        loop {
            match socket.accept().await {
                Ok((stream, address)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a caller is gone already");
                    } else if self.counts.open_one(self.settings.connections_max) {
                        self.serve(stream, address, handler);
                    } else {
                        refuse(stream, &refusals);
                    }
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections for now");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve<H: Handler>(&self, stream: tokio::net::TcpStream, address: SocketAddr, handler: &Arc<H>) {
        let peer = Arc::new(handler.connected(address));
        let (handler, settings, drain) = (Arc::clone(handler), Arc::clone(&self.settings), Arc::clone(&self.drain));
        let counts = Arc::clone(&self.counts);
        drain.opened();
        tokio::spawn(async move {
            let closed = Closed { drain: Arc::clone(&drain), counts };
            let cut_off = connection::serve(stream, handler, peer, settings, drain).await;
            if let Some(cut_off) = cut_off {
                closed.counts.cut_off(cut_off);
            }
        });
    }
}

/// Tells a caller that there is no room; if too many are being told, just closes.
fn refuse(stream: tokio::net::TcpStream, refusals: &Arc<Semaphore>) {
    if let Ok(place) = Arc::clone(refusals).try_acquire_owned() {
        let full =
            Problem::new(ProblemKind::ReducedCapacity).detail("The gateway has as many connections as it may have");
        tokio::spawn(async move {
            refusal::send(stream, &full).await;
            drop(place);
        });
    }
}

/// Counts a connection as closed when its task ends, however it ends.
struct Closed {
    drain: Arc<Drain>,
    counts: Arc<ListenerCounts>,
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.counts.close_one();
        self.drain.closed();
    }
}

/// Errors of `accept` that concern a connection which is already dead, not the socket (accept(2), "Error handling").
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
    )
}
