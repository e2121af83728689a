//! What the strict reader accepts, hyper reads alike: as many requests, with bodies as long.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::*;

/// The lengths of the bodies that hyper finds in `bytes`; a body that is not whole is not counted.
fn hyper_reads(bytes: &[u8]) -> Vec<usize> {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&bodies);
    let serve = async move {
        let (mut caller, gateway) = tokio::io::duplex(1 << 20);
        caller.write_all(bytes).await.unwrap();
        caller.shutdown().await.unwrap();
        let service = service_fn(move |request: Request<Incoming>| {
            let seen = Arc::clone(&seen);
            async move {
                if let Ok(body) = request.into_body().collect().await {
                    seen.lock().unwrap().push(body.to_bytes().len());
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut server = http1::Builder::new();
        // The end of the caller's bytes must not cut off the requests before it.
        let served = server.half_close(true).serve_connection(TokioIo::new(gateway), service);
        // How hyper ends is its own business.
        let _ = served.await;
        drop(caller);
    };
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(serve);
    bodies.lock().unwrap().clone()
}

/// The lengths of the bodies that the strict reader finds; `None` if it refuses or the last message is not whole.
fn framing_reads(bytes: &[u8]) -> Option<Vec<usize>> {
    let mut framing = Framing::new(HeadLimits { bytes_max: 1 << 16, headers_max: 100 });
    let mut bodies = Vec::new();
    let mut data = 0;
    let mut begun = false;
    for byte in bytes {
        let opaque = framing.opaque() > 0;
        framing.read(std::slice::from_ref(byte)).ok()?;
        data += usize::from(opaque);
        begun |= framing.state == State::Headers;
        if begun && framing.phase() == Phase::Idle {
            bodies.push(std::mem::take(&mut data));
            begun = false;
        }
    }
    (framing.phase() == Phase::Idle).then_some(bodies)
}

/// Pieces of requests, right and wrong, in any order.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let lines = prop_oneof![
        Just("GET / HTTP/1.1\r\n"),
        Just("POST /a HTTP/1.1\r\n"),
        Just("POST /a HTTP/1.0\r\n"),
        Just("Host: a\r\n"),
        Just("\r\n"),
        Just("Content-Length: 3\r\n\r\nabc"),
        Just("Content-Length: 0\r\n\r\n"),
        Just("content-length:  2 \r\n"),
        Just("Transfer-Encoding: chunked\r\n\r\n"),
        Just("TRANSFER-ENCODING:chunked\r\n"),
        Just("Transfer-Encoding: identity\r\n"),
        Just("3\r\nabc\r\n"),
        Just("2;x=\"y\"\r\nab\r\n"),
        Just("A\r\n0123456789\r\n"),
        Just("0\r\n\r\n"),
        Just("0\r\nTrailer: x\r\n\r\n"),
        Just("000;e\r\n"),
        Just("\n"),
        Just("\r"),
        Just(" folded\r\n"),
        Just("X:\ty\r\n"),
        Just("X: \u{e9}\r\n"),
        Just("abc"),
    ];
    proptest::collection::vec(lines, 1..14).prop_map(|lines| lines.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn what_is_accepted_is_read_alike(bytes in pieces()) {
        if let Some(strict) = framing_reads(&bytes) {
            let lenient = hyper_reads(&bytes);
            let closes = bytes.windows(8).any(|window| window == b"HTTP/1.0");
            // After a request of HTTP/1.0 hyper closes and reads no further.
            prop_assert!(strict == lenient || closes && strict.starts_with(&lenient), "{strict:?} {lenient:?}");
        }
    }
}

#[test]
fn the_comparison_compares_something() {
    let bytes = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    assert_eq!(framing_reads(bytes), Some(vec![3, 2, 0]));
    assert_eq!(hyper_reads(bytes), [3, 2, 0]);
}
