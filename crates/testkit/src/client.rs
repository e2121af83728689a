//! A rude HTTP/1.1 client: it hangs up where it likes and tells exactly what it knows afterwards.

use crate::http1::{Incoming, Message, ReadError, Side, encode};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    /// `POST /pay`.
    pub line: String,
    /// Headers besides `host` and `content-length`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// When to stop being interested.
    pub hang_up: HangUp,
}

/// When a client closes its connection on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// It does not.
    Never,
    /// In the middle of its own body.
    InRequest,
    /// As soon as the request is written.
    AfterRequest,
    /// After the first bytes of the answer.
    InAnswer,
}

/// How a call ended, as its caller knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A whole answer came.
    Answered(Message),
    /// No connection: nothing was sent.
    NotSent(String),
    /// Something was sent and no whole answer came: the caller knows nothing.
    Unknown(String),
}

impl Request {
    /// A `POST` of a JSON `body`.
    #[must_use]
    pub fn post(path: &str, body: &str) -> Self {
        Self {
            line: format!("POST {path}"),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.as_bytes().to_vec(),
            hang_up: HangUp::Never,
        }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Hanging up.
    #[must_use]
    pub fn hanging_up(mut self, when: HangUp) -> Self {
        self.hang_up = when;
        self
    }
}

/// A client with at most one kept-alive connection.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    kept: Option<(TcpStream, Incoming)>,
}

impl Client {
    /// A client of the server at `address`.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, kept: None }
    }

    /// Sends `request` and waits at most `timeout` for the whole answer. Never sends anything twice by itself.
    pub async fn call(&mut self, request: &Request, timeout: Duration) -> End {
        let within = tokio::time::timeout(timeout, self.call_unbounded(request)).await;
        within.unwrap_or_else(|_| {
            self.kept = None;
            End::Unknown(format!("no answer within {} ms", timeout.as_millis()))
        })
    }

    async fn call_unbounded(&mut self, request: &Request) -> End {
        let (mut socket, mut incoming) = match self.kept.take() {
            Some(kept) => kept,
            None => match TcpStream::connect(self.address).await {
                Ok(socket) => (socket, Incoming::default()),
                Err(error) => return End::NotSent(error.to_string()),
            },
        };
        let _ = socket.set_nodelay(true);
        match self.exchange(&mut socket, &mut incoming, request).await {
            Ok(message) => {
                if !message.closes() {
                    self.kept = Some((socket, incoming));
                }
                End::Answered(message)
            }
            Err(reason) => End::Unknown(reason),
        }
    }

    async fn exchange(
        &self,
        socket: &mut TcpStream,
        incoming: &mut Incoming,
        request: &Request,
    ) -> Result<Message, String> {
        let said = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let mut headers = vec![("host".to_owned(), self.address.to_string())];
        headers.extend(request.headers.iter().cloned());
        let bytes = encode(&format!("{} HTTP/1.1", request.line), &headers, &request.body);
        if request.hang_up == HangUp::InRequest {
            let cut = bytes.len() - request.body.len().div_ceil(2);
            socket.write_all(&bytes[..cut]).await.map_err(said("writing"))?;
            return Err("hung up in the request".to_owned());
        }
        socket.write_all(&bytes).await.map_err(said("writing"))?;
        if request.hang_up == HangUp::AfterRequest {
            return Err("hung up after the request".to_owned());
        }
        if request.hang_up == HangUp::InAnswer {
            let mut byte = [0];
            socket.read(&mut byte).await.map_err(said("reading"))?;
            return Err("hung up in the answer".to_owned());
        }
        incoming.read(socket, Side::Answer).await.map_err(|error| match error {
            ReadError::Idle => "the connection ended without an answer".to_owned(),
            ReadError::Lost { bytes, error } => format!("the answer broke off after {bytes} bytes: {error}"),
            ReadError::Malformed(what) => format!("the answer is not HTTP: {what}"),
        })
    }
}
