//! Just enough HTTP/1.1 on a socket to be rude with: both sides of the tests speak it by hand.
//!
//! The gateway under test uses hyper, so the tests must not: a framing mistake made by both ends would cancel out.
//! Parses what RFC 9112 allows a well-behaved peer to send and refuses the rest.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest head that is read, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The longest body that is read, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A message: start line, headers in order, body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The request line or status line, without its line end.
    pub start: String,
    /// Names in lower case, values trimmed.
    pub headers: Vec<(String, String)>,
    /// The body, decoded from its framing.
    pub body: Vec<u8>,
}

impl Message {
    /// The first value of `name` (in lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The status of an answer; 0 when the start line has none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// Whether the sender will close the connection after this message.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    fn chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }
}

/// Why no whole message was read.
#[derive(Debug)]
pub enum ReadError {
    /// The peer closed before the first byte of a message: a connection that ended between messages.
    Idle,
    /// The message ended early, or the socket failed, after `bytes` bytes of it.
    Lost {
        /// Bytes of the message that had come.
        bytes: usize,
        /// What the socket said.
        error: io::Error,
    },
    /// What came is not HTTP/1.1.
    Malformed(String),
}

/// Which way a message flows: it decides when a body has no length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A request: no length means no body.
    Request,
    /// An answer: no length means until the connection ends.
    Answer,
}

/// A connection's incoming bytes, keeping what came after the message that was read.
#[derive(Debug, Default)]
pub struct Incoming {
    buffer: Vec<u8>,
    /// Bytes of the message being read that had come when a read failed.
    seen: usize,
}

impl Incoming {
    /// Reads the next message from `socket`; interim (1xx) answers are skipped.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read<S: AsyncRead + Unpin>(&mut self, socket: &mut S, side: Side) -> Result<Message, ReadError> {
        loop {
            self.seen = 0;
            let mut message = self.head(socket).await?;
            if side == Side::Answer && (100..200).contains(&message.status()) {
                continue;
            }
            message.body = self.body(socket, &message, side).await?;
            return Ok(message);
        }
    }

    async fn head<S: AsyncRead + Unpin>(&mut self, socket: &mut S) -> Result<Message, ReadError> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(ReadError::Malformed("the head has no end".to_owned()));
            }
            self.more(socket).await?;
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        self.seen += head.len();
        let text = String::from_utf8_lossy(&head[..end]).into_owned();
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        if !start.contains("HTTP/1.") {
            return Err(ReadError::Malformed(format!("start line {start:?}")));
        }
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) =
                line.split_once(':').ok_or_else(|| ReadError::Malformed(format!("header line {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Message { start, headers, body: Vec::new() })
    }

    async fn body<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut S,
        message: &Message,
        side: Side,
    ) -> Result<Vec<u8>, ReadError> {
        if side == Side::Answer && matches!(message.status(), 204 | 304) {
            return Ok(Vec::new());
        }
        if message.chunked() {
            return self.chunks(socket).await;
        }
        if let Some(length) = message.header("content-length") {
            let length = length.parse().map_err(|_| ReadError::Malformed(format!("content-length {length:?}")))?;
            return self.exactly(socket, length).await;
        }
        match side {
            Side::Request => Ok(Vec::new()),
            Side::Answer => self.until_close(socket).await,
        }
    }

    async fn chunks<S: AsyncRead + Unpin>(&mut self, socket: &mut S) -> Result<Vec<u8>, ReadError> {
        let mut body = Vec::new();
        loop {
            let line = self.line(socket).await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| ReadError::Malformed(format!("chunk {line:?}")))?;
            if size == 0 {
                // Trailers end with an empty line.
                while !self.line(socket).await?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.exactly(socket, size).await?);
            self.line(socket).await?;
        }
    }

    async fn line<S: AsyncRead + Unpin>(&mut self, socket: &mut S) -> Result<String, ReadError> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                self.seen += line.len();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.more(socket).await?;
        }
    }

    async fn exactly<S: AsyncRead + Unpin>(&mut self, socket: &mut S, length: usize) -> Result<Vec<u8>, ReadError> {
        if length > BODY_BYTES_MAX {
            return Err(ReadError::Malformed(format!("a body of {length} bytes")));
        }
        while self.buffer.len() < length {
            self.more(socket).await?;
        }
        self.seen += length;
        Ok(self.buffer.drain(..length).collect())
    }

    async fn until_close<S: AsyncRead + Unpin>(&mut self, socket: &mut S) -> Result<Vec<u8>, ReadError> {
        loop {
            let mut chunk = [0; 16 * 1024];
            match socket.read(&mut chunk).await {
                Ok(0) => return Ok(std::mem::take(&mut self.buffer)),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) => return Err(self.lost(error)),
            }
        }
    }

    async fn more<S: AsyncRead + Unpin>(&mut self, socket: &mut S) -> Result<(), ReadError> {
        let mut chunk = [0; 16 * 1024];
        match socket.read(&mut chunk).await {
            Ok(0) if self.seen + self.buffer.len() == 0 => Err(ReadError::Idle),
            Ok(0) => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                Ok(())
            }
            Err(error) => Err(self.lost(error)),
        }
    }

    fn lost(&self, error: io::Error) -> ReadError {
        ReadError::Lost { bytes: self.seen + self.buffer.len(), error }
    }
}

/// The bytes of a message with a `content-length`.
#[must_use]
pub fn encode(start: &str, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{start}\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8], side: Side) -> Result<Message, ReadError> {
        Incoming::default().read(&mut &bytes[..], side).await
    }

    #[tokio::test]
    async fn lengths_chunks_and_pipelines_are_read() {
        let two = encode("POST / HTTP/1.1", &[("a".to_owned(), "b".to_owned())], b"xyz").repeat(2);
        let (mut incoming, mut socket) = (Incoming::default(), &two[..]);
        for _ in 0..2 {
            let message = incoming.read(&mut socket, Side::Request).await.unwrap();
            assert_eq!((message.header("a"), message.body.as_slice()), (Some("b"), &b"xyz"[..]));
        }
        assert!(matches!(incoming.read(&mut socket, Side::Request).await, Err(ReadError::Idle)));
        let chunked = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nt: v\r\n\r\n";
        assert_eq!(read(chunked, Side::Answer).await.unwrap().body, b"abcd");
        assert_eq!(read(b"HTTP/1.1 200 OK\r\n\r\nall of it", Side::Answer).await.unwrap().body, b"all of it");
    }

    #[tokio::test]
    async fn a_cut_message_is_never_whole() {
        let whole = encode("HTTP/1.1 200 OK", &[], b"body");
        for cut in 1..whole.len() {
            let read = read(&whole[..cut], Side::Answer).await;
            assert!(matches!(read, Err(ReadError::Lost { bytes, .. }) if bytes == cut), "cut at {cut}: {read:?}");
        }
        assert!(matches!(read(b"nonsense\r\n\r\n", Side::Answer).await, Err(ReadError::Malformed(_))));
    }
}
