//! An upstream that costs next to nothing: whatever is measured before it is the proxy.

use clap::Args;
use memchr::memmem::Finder;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// The largest request that is taken, in bytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

#[derive(Args)]
pub(crate) struct Stub {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Bytes of the answer's JSON body.
    #[arg(long, default_value_t = 1024)]
    body_bytes: usize,
}

impl Stub {
    pub(crate) async fn serve(self) -> io::Result<()> {
        let listener = TcpListener::bind(self.listen).await?;
        let body = format!(r#"{{"id":1,"padding":"{}"}}"#, "x".repeat(self.body_bytes.saturating_sub(21)));
        let head = "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nlocation: /payments/1\r\n";
        let answer: Rc<[u8]> = format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes().into();
        let local = LocalSet::new();
        local
            .run_until(async {
                loop {
                    let (socket, _) = listener.accept().await?;
                    socket.set_nodelay(true)?;
                    tokio::task::spawn_local(connection(socket, Rc::clone(&answer)));
                }
            })
            .await
    }
}

async fn connection(mut socket: TcpStream, answer: Rc<[u8]>) {
    let mut buffer = Vec::with_capacity(REQUEST_BYTES_MAX);
    let end = Finder::new(b"\r\n\r\n");
    loop {
        while let Some(taken) = request_bytes(&buffer, &end) {
            buffer.drain(..taken);
            if socket.write_all(&answer).await.is_err() {
                return;
            }
        }
        if buffer.len() >= REQUEST_BYTES_MAX || !matches!(socket.read_buf(&mut buffer).await, Ok(1..)) {
            return;
        }
    }
}

/// How many bytes the first whole request in `buffer` has.
fn request_bytes(buffer: &[u8], end: &Finder<'_>) -> Option<usize> {
    let head = end.find(buffer)? + 4;
    let whole = head + content_length(&buffer[..head]).unwrap_or(0);
    (buffer.len() >= whole).then_some(whole)
}

/// The `content-length` of a head, whatever its case.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    let name = b"content-length:";
    let mut rest = head;
    while let Some(at) = memchr::memchr(b'\n', rest) {
        rest = &rest[at + 1..];
        if rest.len() > name.len() && rest[..name.len()].eq_ignore_ascii_case(name) {
            let value = &rest[name.len()..memchr::memchr(b'\r', rest)?];
            return std::str::from_utf8(value).ok()?.trim().parse().ok();
        }
    }
    None
}
