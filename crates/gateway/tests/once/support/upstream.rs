//! An upstream that does what a function says.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::http::{Message, Reader};
use super::{Gate, PATIENCE};

/// A whole request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    /// Which one it is, over all connections, from 0.
    pub(crate) number: usize,
    pub(crate) message: Message,
}

impl Arrival {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.message.header(name)
    }

    /// The key that came with it.
    pub(crate) fn key(&self) -> &str {
        self.header("idempotency-key").unwrap_or_else(|| panic!("no key: {self:?}"))
    }
}

/// The upstream's side of the connection that a request came on.
pub(crate) struct Wire<'a> {
    stream: &'a mut TcpStream,
    open: bool,
}

impl Wire<'_> {
    pub(crate) fn say(&mut self, text: &str) -> &mut Self {
        // A gateway that has given up has closed the connection.
        self.open &= self.stream.write_all(text.as_bytes()).is_ok();
        self
    }

    /// Answers `status` with `body` and more header lines.
    pub(crate) fn answer(&mut self, status: u16, headers: &[(&str, &str)], body: &str) -> &mut Self {
        self.say(&answer(status, headers, body))
    }

    /// Holds everything until the test opens the gate.
    pub(crate) fn wait(&mut self, gate: &Gate) -> &mut Self {
        gate.wait();
        self
    }

    /// Ends the connection without another word; on return the other side can see it.
    pub(crate) fn close(&mut self) {
        // Not connected any more: the gateway was quicker.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.open = false;
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(&mut self) {
        SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO)).unwrap();
        self.open = false;
    }
}

/// An answer's bytes.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("HTTP/1.1 {status} Said So\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{text}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[derive(Default)]
struct Seen {
    arrivals: Mutex<Vec<Arrival>>,
    more: Condvar,
    connections: Mutex<usize>,
}

/// A scripted upstream, one thread for each connection.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    /// Bound and not listening yet: connections are refused.
    refusing: Option<Socket>,
    script: Arc<Script>,
}

type Script = dyn Fn(&Arrival, &mut Wire<'_>) + Send + Sync;

impl Upstream {
    pub(crate) fn start(script: impl Fn(&Arrival, &mut Wire<'_>) + Send + Sync + 'static) -> Self {
        let mut upstream = Self::refusing(script);
        upstream.listen();
        upstream
    }

    /// Has its address, and refuses connections until it listens.
    pub(crate) fn refusing(script: impl Fn(&Arrival, &mut Wire<'_>) + Send + Sync + 'static) -> Self {
        Self::refusing_at(([127, 0, 0, 1], 0).into(), script)
    }

    /// As [`Self::refusing`], at this address.
    pub(crate) fn refusing_at(
        address: SocketAddr,
        script: impl Fn(&Arrival, &mut Wire<'_>) + Send + Sync + 'static,
    ) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&address.into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self { address, seen: Arc::default(), refusing: Some(socket), script: Arc::new(script) }
    }

    /// Takes connections from now on.
    pub(crate) fn listen(&mut self) {
        let Some(socket) = self.refusing.take() else { return };
        socket.listen(128).unwrap();
        let listener = TcpListener::from(socket);
        let (seen, script) = (Arc::clone(&self.seen), Arc::clone(&self.script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                *seen.connections.lock().unwrap() += 1;
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                std::thread::spawn(move || serve(stream, &seen, &*script));
            }
        });
    }

    /// Executes everything and answers 201 `done N`, N counting executions from 0.
    pub(crate) fn executing() -> Self {
        Self::start(|arrival, wire| {
            wire.answer(201, &[], &format!("done {}", arrival.number));
        })
    }

    /// The requests so far.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.seen.arrivals.lock().unwrap().clone()
    }

    /// How many requests have come.
    pub(crate) fn count(&self) -> usize {
        self.seen.arrivals.lock().unwrap().len()
    }

    /// How many connections have come.
    pub(crate) fn connections(&self) -> usize {
        *self.seen.connections.lock().unwrap()
    }

    /// Waits until `count` requests have come.
    pub(crate) fn wait_for(&self, count: usize) {
        let seen = self.seen.arrivals.lock().unwrap();
        let waited = self.seen.more.wait_timeout_while(seen, PATIENCE, |seen| seen.len() < count).unwrap();
        assert!(!waited.1.timed_out(), "{count} requests did not come");
    }
}

fn serve(stream: TcpStream, seen: &Seen, script: &Script) {
    stream.set_nodelay(true).unwrap();
    let mut reader = Reader { stream, pending: Vec::new() };
    while let Some(message) = reader.message(false) {
        let arrival = {
            let mut arrivals = seen.arrivals.lock().unwrap();
            let arrival = Arrival { number: arrivals.len(), message };
            arrivals.push(arrival.clone());
            arrival
        };
        seen.more.notify_all();
        let mut wire = Wire { stream: &mut reader.stream, open: true };
        script(&arrival, &mut wire);
        if !wire.open {
            return;
        }
    }
}
