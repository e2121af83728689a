//! A payment service to try semel on: it charges for real (it counts), honours keys, and loses replies.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// A request's body; an amount is short.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Keys that are remembered; the oldest are forgotten first.
const KEYS_MAX: usize = 100_000;

/// The service's state.
#[derive(Debug)]
pub(crate) struct Demo {
    /// Of so many charges the reply of the last is lost; zero loses none.
    lose_every: u64,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// Charges made, ever.
    charges: u64,
    /// Those of them that had a key.
    keyed_charges: u64,
    /// The receipt of each key.
    receipts: HashMap<String, String>,
    order: VecDeque<String>,
}

/// What one request comes to.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Receipt(StatusCode, String),
    /// Executed, and then the connection breaks.
    Lost,
}

/// The connection is closed without a reply.
#[derive(Debug, thiserror::Error)]
#[error("the reply was lost on purpose")]
struct LostReply;

impl Demo {
    pub(crate) fn new(lose_every: u64) -> Self {
        Self { lose_every, books: Mutex::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // A panic while counting would leave a count that is off by one at worst.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Charges made so far.
    pub(crate) fn charges(&self) -> u64 {
        self.books().charges
    }

    /// Charges made so far for requests with a key.
    pub(crate) fn keyed_charges(&self) -> u64 {
        self.books().keyed_charges
    }

    /// Charges that this key stands for: one, or none when it is not remembered.
    pub(crate) fn charges_of(&self, key: &str) -> u64 {
        u64::from(self.books().receipts.contains_key(key))
    }

    fn pay(&self, key: Option<&str>, amount: &str) -> Reply {
        let mut books = self.books();
        if let Some(receipt) = key.and_then(|key| books.receipts.get(key)) {
            return Reply::Receipt(StatusCode::CREATED, receipt.clone());
        }
        books.charges += 1;
        let number = books.charges;
        let receipt = format!("{{\"charge\":{number},\"amount\":{}}}\n", serde_json::Value::from(amount));
        if let Some(key) = key {
            books.keyed_charges += 1;
            books.remember(key, receipt.clone());
        }
        if self.lose_every > 0 && number.is_multiple_of(self.lose_every) {
            Reply::Lost
        } else {
            Reply::Receipt(StatusCode::CREATED, receipt)
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, LostReply> {
        let reply = match (request.method(), request.uri().path()) {
            (&Method::POST, "/pay") => {
                let key = request.headers().get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
                match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
                    Ok(body) => self.pay(key.as_deref(), String::from_utf8_lossy(&body.to_bytes()).trim()),
                    Err(_) => Reply::Receipt(StatusCode::PAYLOAD_TOO_LARGE, "{\"error\":\"too large\"}\n".to_owned()),
                }
            }
            (&Method::GET, "/charges") => {
                Reply::Receipt(StatusCode::OK, format!("{{\"charges\":{}}}\n", self.charges()))
            }
            _ => {
                let what = "{\"error\":\"only POST /pay and GET /charges are here\"}\n";
                Reply::Receipt(StatusCode::NOT_FOUND, what.to_owned())
            }
        };
        let Reply::Receipt(status, text) = reply else { return Err(LostReply) };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        Ok(response)
    }
}

impl Books {
    fn remember(&mut self, key: &str, receipt: String) {
        if self.order.len() == KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.receipts.remove(&oldest);
        }
        self.order.push_back(key.to_owned());
        self.receipts.insert(key.to_owned(), receipt);
    }
}

/// Serves until dropped.
pub(crate) async fn serve(demo: Arc<Demo>, listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let demo = Arc::clone(&demo);
        let service = service_fn(move |request| {
            let demo = Arc::clone(&demo);
            async move { demo.answer(request).await }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new());
        // An error here is a lost reply or a client that went away: both are the point of a demo.
        tokio::spawn(async move { drop(http.serve_connection(TokioIo::new(stream), service).await) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_charged_once_even_when_its_reply_was_lost() {
        let demo = Demo::new(2);
        let receipt = |n: u64| Reply::Receipt(StatusCode::CREATED, format!("{{\"charge\":{n},\"amount\":\"10\"}}\n"));
        assert_eq!(demo.pay(Some("a"), "10"), receipt(1));
        assert_eq!(demo.pay(Some("b"), "10"), Reply::Lost);
        assert_eq!(demo.pay(Some("b"), "10"), receipt(2), "the retry gets the receipt");
        assert_eq!(demo.pay(None, "10"), receipt(3));
        assert_eq!(demo.pay(None, "10"), Reply::Lost, "without a key every call charges");
        assert_eq!(demo.charges(), 4);
    }

    #[test]
    fn memory_is_bounded() {
        let demo = Demo::new(0);
        for n in 0..=KEYS_MAX {
            demo.pay(Some(&n.to_string()), "1");
        }
        assert_eq!(demo.books().receipts.len(), KEYS_MAX);
        assert_eq!(demo.books().order.len(), KEYS_MAX);
    }
}
