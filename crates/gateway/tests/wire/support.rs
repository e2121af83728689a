//! Raw peers over real sockets: what they see is what was on the wire.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use semel_core::dialect::Dialect;
use semel_core::policy::admission::Priority;
use semel_gateway::body::{RequestBody, ResponseBody};
use semel_gateway::forward::{Admitted, Forward, admit};
use semel_gateway::headers::forwarded::{ForwardedStyle, Peer, TrustedPeers};
use semel_gateway::headers::trace::X_REQUEST_ID;
use semel_gateway::listener::{Handler, Listener, ListenerSettings, Running};
use semel_gateway::metrics::RouteMetrics;
use semel_gateway::problem::respond;
use semel_gateway::upstream::{Endpoint, Intake, Upstream, UpstreamSettings};

/// Nothing in these tests takes that long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// An upstream that does what a function says, on one thread for each connection.
pub(crate) struct RawUpstream {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<String>>>,
}

/// The upstream's side of one connection.
pub(crate) struct RawConnection {
    pub(crate) stream: TcpStream,
    /// Which connection it is, counted from 0.
    pub(crate) number: usize,
    seen: Arc<Mutex<Vec<String>>>,
    pending: Vec<u8>,
}

impl RawUpstream {
    pub(crate) fn start(serve: impl Fn(RawConnection) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let upstream = Self { address, accepted: Arc::clone(&accepted), seen: Arc::clone(&seen) };
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_nodelay(true).unwrap();
                let number = accepted.fetch_add(1, Ordering::SeqCst);
                let connection = RawConnection { stream, number, seen: Arc::clone(&seen), pending: Vec::new() };
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(connection));
            }
        });
        upstream
    }

    /// Answers every request on every connection alike.
    pub(crate) fn answering(answer: &'static str) -> Self {
        Self::start(move |mut connection| while connection.request().is_some_and(|_| connection.say(answer)) {})
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.address.into()
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Requests seen so far, each with its body, byte for byte.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl RawConnection {
    /// Reads one request with its body; `None` if the connection ends first.
    pub(crate) fn request(&mut self) -> Option<String> {
        let message = read_message(&mut self.stream, &mut self.pending)?;
        self.seen.lock().unwrap().push(message.clone());
        Some(message)
    }

    /// Reads the head of a request only.
    pub(crate) fn head(&mut self) -> Option<String> {
        let end = read_until(&mut self.stream, &mut self.pending, b"\r\n\r\n")?;
        let head: Vec<u8> = self.pending.drain(..end).collect();
        Some(String::from_utf8(head).unwrap())
    }

    /// Sends bytes; false if the peer is gone.
    pub(crate) fn say(&mut self, text: &str) -> bool {
        self.stream.write_all(text.as_bytes()).is_ok()
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// True when the peer has closed its end.
    pub(crate) fn closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]), Ok(0) | Err(_))
    }
}

/// Reads until `end`; returns the length up to and including it.
fn read_until(stream: &mut TcpStream, pending: &mut Vec<u8>, end: &[u8]) -> Option<usize> {
    loop {
        if let Some(at) = pending.windows(end.len()).position(|window| window == end) {
            return Some(at + end.len());
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(n) => pending.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Reads one message by its framing headers; without any it has no body.
pub(crate) fn read_message(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<String> {
    let head = read_until(stream, pending, b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&pending[..head]).to_lowercase();
    let mut length = head;
    if text.contains("transfer-encoding: chunked") {
        loop {
            let mut rest = pending.split_off(length);
            let line = read_until(stream, &mut rest, b"\r\n");
            pending.extend_from_slice(&rest);
            let line = line?;
            let size = String::from_utf8_lossy(&rest[..line - 2]).into_owned();
            length += line;
            if size == "0" {
                // Trailers, then an empty line.
                loop {
                    let mut rest = pending.split_off(length);
                    let line = read_until(stream, &mut rest, b"\r\n");
                    pending.extend_from_slice(&rest);
                    let line = line?;
                    length += line;
                    if line == 2 {
                        break;
                    }
                }
                break;
            }
            length += usize::from_str_radix(&size, 16).unwrap() + 2;
            fill(stream, pending, length)?;
        }
    } else if let Some(at) = text.find("content-length: ") {
        let digits: String = text[at + 16..].chars().take_while(char::is_ascii_digit).collect();
        length += digits.parse::<usize>().unwrap();
        fill(stream, pending, length)?;
    }
    Some(String::from_utf8_lossy(&pending.drain(..length).collect::<Vec<_>>()).into_owned())
}

fn fill(stream: &mut TcpStream, pending: &mut Vec<u8>, length: usize) -> Option<()> {
    while pending.len() < length {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(n) => pending.extend_from_slice(&buffer[..n]),
        }
    }
    Some(())
}

/// A caller with a raw socket.
pub(crate) struct Caller {
    pub(crate) stream: TcpStream,
    pending: Vec<u8>,
}

impl Caller {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, pending: Vec::new() }
    }

    pub(crate) fn send(&mut self, text: &str) -> &mut Self {
        self.stream.write_all(text.as_bytes()).unwrap();
        self
    }

    /// The next answer with its body.
    pub(crate) fn answer(&mut self) -> String {
        read_message(&mut self.stream, &mut self.pending).expect("an answer")
    }

    /// The head of the next answer.
    pub(crate) fn head(&mut self) -> String {
        let end = read_until(&mut self.stream, &mut self.pending, b"\r\n\r\n").expect("a head");
        String::from_utf8(self.pending.drain(..end).collect()).unwrap()
    }

    /// The next `length` bytes.
    pub(crate) fn exactly(&mut self, length: usize) -> String {
        fill(&mut self.stream, &mut self.pending, length).expect("more bytes");
        String::from_utf8(self.pending.drain(..length).collect()).unwrap()
    }

    /// All that still comes until the gateway closes.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.pending);
        // A reset ends it as well.
        let _ = self.stream.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// A gateway that forwards everything to one upstream.
pub(crate) struct Gateway {
    pub(crate) running: Running,
}

struct ForwardAll {
    upstream: Upstream,
    head_timeout: Duration,
    metrics: Arc<RouteMetrics>,
}

impl Handler for ForwardAll {
    fn connected(&self, address: SocketAddr) -> Peer {
        Peer::new(address, &TrustedPeers::default())
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>, peer: Arc<Peer>) -> Response<ResponseBody> {
        match admit(request, &peer, ForwardedStyle::Both) {
            Ok(admitted) => {
                let Self { upstream, head_timeout, metrics } = &*self;
                let deadline = admitted.said_deadline(*head_timeout).unwrap();
                let Admitted { request, trace, request_id, .. } = admitted;
                let priority = Priority::default();
                let forward = Forward { upstream, head_timeout: *head_timeout, metrics, priority, faults: None };
                let mut response =
                    forward.send(request.map(|body| RequestBody::streaming(body, u64::MAX)), &trace, deadline).await;
                response.headers_mut().insert(X_REQUEST_ID, request_id);
                response
            }
            Err(problem) => respond(&problem, &Dialect::IETF),
        }
    }
}

impl Gateway {
    pub(crate) fn to(upstream: &RawUpstream) -> Self {
        Self::with(upstream, |_, _| {})
    }

    pub(crate) fn with(
        upstream: &RawUpstream,
        change: impl FnOnce(&mut ListenerSettings, &mut UpstreamSettings),
    ) -> Self {
        let mut listener = ListenerSettings::new("127.0.0.1:0".parse().unwrap());
        listener.runtimes = 1;
        listener.drain_timeout = PATIENCE;
        let mut settings = UpstreamSettings::new(vec![upstream.endpoint()]);
        change(&mut listener, &mut settings);
        let runtimes = listener.runtimes;
        let intake = Arc::new(Intake::new(settings, None));
        let running = Listener::bind(listener)
            .unwrap()
            .start(move |_| {
                let upstream = Upstream::sharing(Arc::clone(&intake), runtimes, None);
                Arc::new(ForwardAll { upstream, head_timeout: PATIENCE, metrics: Arc::default() })
            })
            .unwrap();
        Self { running }
    }

    pub(crate) fn caller(&self) -> Caller {
        Caller::connect(self.running.address())
    }
}

/// Waits until `condition` holds, by looking again and again; fails after [`PATIENCE`].
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = semel_gateway::clock::now() + PATIENCE;
    while !condition() {
        assert!(semel_gateway::clock::now() < end, "{what} did not happen");
        std::thread::yield_now();
    }
}

/// The values of a header.
pub(crate) fn header<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    let head = message.split("\r\n\r\n").next().unwrap();
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}
