//! One connection of the upstream.

use super::{Gate, ORACLE_KEY, Shared, Todo, answer};
use crate::http1::{Incoming, Message, Side};
use crate::plan::Act;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Between two pieces of a slow body.
const SLOW_BODY_PAUSE: Duration = Duration::from_millis(5);
/// Before a late answer.
const LATE: Duration = Duration::from_secs(1);

/// Serves until the peer closes, an act closes, or the gate shuts between two requests.
pub(super) async fn serve(mut socket: TcpStream, shared: Arc<Shared>, mut gate: watch::Receiver<Gate>) {
    let mut incoming = Incoming::default();
    let _ = socket.set_nodelay(true);
    loop {
        let request = tokio::select! {
            biased;
            request = incoming.read(&mut socket, Side::Request) => request,
            () = shut(&mut gate) => return,
        };
        let Ok(request) = request else { return };
        match answer_one(&mut socket, &shared, &request).await {
            Ok(Then::NextRequest) if !request.closes() => {}
            Ok(Then::Reset) => {
                // RST rather than FIN: whatever the peer still sends or reads fails at once.
                let _ = socket.set_zero_linger();
                return;
            }
            _ => return,
        }
    }
}

async fn shut(gate: &mut watch::Receiver<Gate>) {
    while *gate.borrow_and_update() == Gate::Open {
        if gate.changed().await.is_err() {
            return;
        }
    }
}

enum Then {
    NextRequest,
    Close,
    Reset,
}

async fn answer_one(socket: &mut TcpStream, shared: &Shared, request: &Message) -> io::Result<Then> {
    let Some(key) = request.header(ORACLE_KEY) else {
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        return Ok(Then::NextRequest);
    };
    let payload = String::from_utf8_lossy(&request.body);
    let todo = shared.arrived(key, request.header("idempotency-key"), request.header("semel-attempt"), &payload)?;
    carry_out(socket, key, todo).await
}

async fn carry_out(socket: &mut TcpStream, key: &str, todo: Todo) -> io::Result<Then> {
    match todo.act {
        Act::ResetBefore | Act::ResetAfter => Ok(Then::Reset),
        Act::CloseBefore | Act::CloseAfter => Ok(Then::Close),
        Act::StallBefore | Act::StallAfter => {
            // Until the caller gives up: a read ends when it closes.
            let mut byte = [0];
            let _ = socket.read(&mut byte).await;
            Ok(Then::Close)
        }
        Act::Truncate | Act::TruncateHead => {
            let whole = answer::executed(key, todo);
            let cut = if todo.act == Act::Truncate { whole.len() - 5 } else { 30 };
            socket.write_all(&whole[..cut]).await?;
            Ok(Then::Close)
        }
        Act::TruncateChunked => {
            socket.write_all(&answer::cut_in_a_chunk(key, todo)).await?;
            Ok(Then::Close)
        }
        Act::Garbage => {
            socket.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n").await?;
            Ok(Then::Close)
        }
        Act::SlowBody => {
            let whole = answer::executed(key, todo);
            for piece in whole.chunks(whole.len().div_ceil(answer::SLOW_BODY_PIECES)) {
                socket.write_all(piece).await?;
                tokio::time::sleep(SLOW_BODY_PAUSE).await;
            }
            Ok(Then::NextRequest)
        }
        Act::Late => {
            tokio::time::sleep(LATE).await;
            socket.write_all(&answer::executed(key, todo)).await?;
            Ok(Then::NextRequest)
        }
        Act::Interim => {
            socket.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await?;
            socket.write_all(&answer::executed(key, todo)).await?;
            Ok(Then::NextRequest)
        }
        Act::FailBefore | Act::RateLimited | Act::Unavailable | Act::MarkNone => {
            socket.write_all(&answer::not_executed(todo.act)).await?;
            Ok(Then::NextRequest)
        }
        _ => {
            socket.write_all(&answer::executed(key, todo)).await?;
            Ok(Then::NextRequest)
        }
    }
}
