//! HTTP/1.1 by hand, on both sides of the gateway: a framing mistake of hyper's would cancel out between two hypers.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::PATIENCE;

/// A request or an answer.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// The request line or status line.
    pub(crate) start: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Message {
    fn parse(head: &str) -> Self {
        let mut lines = head.trim_end().split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let headers = lines.map(|line| line.split_once(':').expect("a header line"));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
        Self { start, headers, body: String::new() }
    }

    /// The one value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let first = values.next();
        assert!(values.next().is_none(), "{name} stands twice: {self:?}");
        first
    }

    pub(crate) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line")
    }

    /// The body of a problem.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of the gateway's own answer.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_else(|| panic!("no code: {self:?}")).to_owned()
    }

    /// Status and code of the gateway's own answer.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) -> &Self {
        assert_eq!((self.status(), self.code().as_str()), (status, code), "{self:?}");
        assert_eq!(self.header("semel-source"), Some("gateway"), "{self:?}");
        self
    }

    /// An answer of the upstream, in so many words about the effect.
    #[track_caller]
    pub(crate) fn said(&self, status: u16, body: &str, effect: &str) -> &Self {
        assert_eq!((self.status(), self.body.as_str()), (status, body), "{self:?}");
        assert_eq!(self.header("semel-source"), Some("upstream"), "{self:?}");
        assert_eq!(self.header("semel-effect"), Some(effect), "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn is_replay(&self, yes: bool) -> &Self {
        assert_eq!(self.header("idempotent-replayed"), yes.then_some("true"), "{self:?}");
        self
    }
}

/// A request in the making.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

/// A `POST` to `path` with a small JSON body.
pub(crate) fn post(path: &str) -> Call {
    Call::new("POST", path).header("content-type", "application/json").body(r#"{"amount":10}"#)
}

impl Call {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self { line: format!("{method} {path}"), headers: Vec::new(), body: String::new() }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("Idempotency-Key", key)
    }

    pub(crate) fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} HTTP/1.1\r\nHost: shop.example\r\n", self.line);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        format!("{text}Content-Length: {}\r\n\r\n{}", self.body.len(), self.body).into_bytes()
    }
}

/// A caller that has sent its request; hangs up when dropped.
pub(crate) struct Caller {
    reader: Reader,
}

impl Caller {
    pub(crate) fn send(address: SocketAddr, call: &Call) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A refusal may come, and the connection go, before all of a large body was taken.
        let _ = stream.write_all(&call.bytes());
        Self { reader: Reader { stream, pending: Vec::new() } }
    }

    /// Sends another request on the same connection.
    pub(crate) fn again(&mut self, call: &Call) -> &mut Self {
        self.reader.stream.write_all(&call.bytes()).unwrap();
        self
    }

    pub(crate) fn answer(&mut self) -> Message {
        self.reader.message(true).expect("an answer")
    }

    /// The head of the answer, before its body.
    pub(crate) fn head(&mut self) -> Message {
        self.reader.head().expect("the head of an answer")
    }

    /// The next chunk of a chunked body; none at its end.
    pub(crate) fn chunk(&mut self) -> Option<String> {
        let chunk = self.reader.chunk().expect("a chunk");
        (!chunk.is_empty()).then(|| String::from_utf8(chunk).unwrap())
    }

    /// Whether the gateway has closed the connection instead of answering.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.reader.message(true).is_none()
    }

    /// Whether nothing of an answer has come so far.
    pub(crate) fn is_silent(&self) -> bool {
        self.reader.stream.set_nonblocking(true).unwrap();
        let peeked = self.reader.stream.peek(&mut [0]);
        self.reader.stream.set_nonblocking(false).unwrap();
        matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

/// One end's incoming bytes.
pub(crate) struct Reader {
    pub(crate) stream: TcpStream,
    pub(crate) pending: Vec<u8>,
}

impl Reader {
    /// The next message; none if the connection ends before it is whole.
    pub(crate) fn message(&mut self, is_answer: bool) -> Option<Message> {
        let mut message = self.head()?;
        let bodiless = is_answer && matches!(message.status(), 204 | 304);
        let body = if message.header("transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                match self.chunk()? {
                    chunk if chunk.is_empty() => break body,
                    chunk => body.extend(chunk),
                }
            }
        } else if let Some(length) = message.header("content-length").filter(|_| !bodiless) {
            self.exactly(length.parse().unwrap())?
        } else {
            Vec::new()
        };
        message.body = String::from_utf8(body).unwrap();
        Some(message)
    }

    fn head(&mut self) -> Option<Message> {
        let head = self.until(b"\r\n\r\n")?;
        Some(Message::parse(std::str::from_utf8(&head).unwrap()))
    }

    /// The data of the next chunk; empty for the last, whose trailers are skipped.
    fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.until(b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        if size == 0 {
            while self.until(b"\r\n")? != b"\r\n" {}
            return Some(Vec::new());
        }
        let mut data = self.exactly(size + 2)?;
        data.truncate(size);
        Some(data)
    }

    fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.pending.windows(end.len()).position(|window| window == end) {
                return Some(self.pending.drain(..at + end.len()).collect());
            }
            self.more()?;
        }
    }

    fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.pending.len() < length {
            self.more()?;
        }
        Some(self.pending.drain(..length).collect())
    }

    fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(n) if n > 0 => {
                self.pending.extend_from_slice(&buffer[..n]);
                Some(())
            }
            _ => None,
        }
    }
}
