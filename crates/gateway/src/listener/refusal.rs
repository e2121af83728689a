//! Last words to a caller whose bytes are not a request, or for whom there is no room.

use std::time::Duration;

use semel_core::dialect::Dialect;
use semel_core::problem::Problem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How much of what a caller still sends is read after the last word, so that a reset does not overtake it.
const LINGER_BYTES_MAX: usize = 1 << 20;
const LINGER_MAX: Duration = Duration::from_secs(2);

/// The problem written out by hand, because there is no exchange to answer in. The connection ends with it.
fn to_bytes(problem: &Problem) -> Vec<u8> {
    let response = problem.render(&Dialect::IETF);
    let body = response.body();
    let mut head = format!("HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: {}\r\n", response.status(), body.len());
    for (name, value) in response.headers() {
        // The headers of a problem are our own, and text.
        head.extend([name.as_str(), ": ", value.to_str().unwrap_or_default(), "\r\n"]);
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Says it and closes, giving the caller a moment to hear it.
pub(super) async fn send(mut stream: TcpStream, problem: &Problem) {
    let bytes = to_bytes(problem);
    // The caller may be gone already; there is nobody to tell.
    if let Ok(Ok(())) = tokio::time::timeout(LINGER_MAX, stream.write_all(&bytes)).await {
        linger(stream).await;
    }
}

/// Closes our end and reads on for a moment: closing with bytes unread would send a reset, which can destroy an answer
/// that the caller has not read yet (RFC 9112, 9.6).
pub(super) async fn linger(mut stream: TcpStream) {
    let drained = async {
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        let mut read = 0;
        while read < LINGER_BYTES_MAX {
            match stream.read(&mut rest).await? {
                0 => break,
                n => read += n,
            }
        }
        std::io::Result::Ok(())
    };
    // Whatever goes wrong now, the connection is over.
    let _ = tokio::time::timeout(LINGER_MAX, drained).await;
}
