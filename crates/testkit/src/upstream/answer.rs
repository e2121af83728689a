//! The bytes of the upstream's answers.

use super::Todo;
use crate::http1::{Message, encode};
use crate::plan::Act;

/// How many pieces a slow body comes in.
pub const SLOW_BODY_PIECES: usize = 8;

/// The execution that an answer of the upstream speaks of.
#[must_use]
pub fn execution_of(answer: &Message) -> Option<u64> {
    let body: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    body.get("execution")?.as_u64()
}

/// An answer about `todo.execution`, with the headers whose replay the oracle watches.
pub(super) fn executed(key: &str, todo: Todo) -> Vec<u8> {
    let (status, mark) = match todo.act {
        Act::Decline => ("402 Payment Required", None),
        Act::MarkCommitted => ("500 Internal Server Error", Some("committed")),
        Act::FailAfter => ("500 Internal Server Error", None),
        Act::GatewayTimeoutAfter => ("504 Gateway Timeout", None),
        Act::MarkUnknown => ("200 OK", Some("unknown")),
        _ => ("201 Created", None),
    };
    let execution = todo.execution.unwrap_or_default();
    let mut headers = vec![
        ("content-type".to_owned(), "application/json".to_owned()),
        ("location".to_owned(), format!("/effects/{execution}")),
        ("etag".to_owned(), format!("\"{execution}\"")),
        ("set-cookie".to_owned(), format!("session={execution}")),
        ("date".to_owned(), "Thu, 01 Jan 2026 00:00:00 GMT".to_owned()),
    ];
    headers.extend(mark.map(|mark| ("semel-effect".to_owned(), mark.to_owned())));
    encode(&format!("HTTP/1.1 {status}"), &headers, body(key, todo).as_bytes())
}

fn body(key: &str, todo: Todo) -> String {
    let padding = match todo.act {
        Act::Oversize => 2 << 20,
        Act::SlowBody => 4096,
        _ => 0,
    };
    let (execution, padding) = (todo.execution.unwrap_or_default(), "x".repeat(padding));
    format!(r#"{{"key":{},"execution":{execution},"padding":"{padding}"}}"#, serde_json::Value::from(key))
}

/// A refusal that says that nothing was executed, or a failure that says nothing at all.
pub(super) fn not_executed(act: Act) -> Vec<u8> {
    let (status, header) = match act {
        Act::RateLimited => ("429 Too Many Requests", Some(("retry-after", "0"))),
        Act::Unavailable => ("503 Service Unavailable", Some(("retry-after", "0"))),
        Act::MarkNone => ("500 Internal Server Error", Some(("semel-effect", "none"))),
        _ => ("500 Internal Server Error", None),
    };
    let headers: Vec<_> = header.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    encode(&format!("HTTP/1.1 {status}"), &headers, br#"{"refused":true}"#)
}

/// An answer whose chunked body breaks off inside a chunk.
pub(super) fn cut_in_a_chunk(key: &str, todo: Todo) -> Vec<u8> {
    let body = body(key, todo);
    let half = &body[..body.len() / 2];
    let size = body.len();
    let head = "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    format!("{head}{size:x}\r\n{half}").into_bytes()
}
