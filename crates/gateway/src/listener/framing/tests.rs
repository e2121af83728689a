use proptest::prelude::*;

use super::*;

fn framing() -> Framing {
    Framing::new(HeadLimits { bytes_max: 1024, headers_max: 10 })
}

fn refused(bytes: &str) -> Option<FramingError> {
    framing().read(bytes.as_bytes()).err().map(|refused| refused.error)
}

/// A request with these header lines.
fn with(headers: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
}

#[test]
fn follows_messages() {
    let mut framing = framing();
    assert_eq!(framing.phase(), Phase::Idle);
    framing.read(b"GET / HTT").unwrap();
    assert_eq!(framing.phase(), Phase::Head);
    framing.read(b"P/1.1\r\nHost: a\r\n").unwrap();
    assert_eq!(framing.phase(), Phase::Head);
    framing.read(b"\r\n").unwrap();
    assert_eq!(framing.phase(), Phase::Idle);
    framing.read(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab").unwrap();
    assert_eq!((framing.phase(), framing.opaque()), (Phase::Body(2), 3));
    framing.skip(3);
    assert_eq!(framing.phase(), Phase::Idle);
    framing.read(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n").unwrap();
    assert_eq!(framing.phase(), Phase::Idle);
    framing.read(b"\r\nGET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(framing.phase(), Phase::Idle);
}

#[test]
fn refuses_what_others_read_differently() {
    use FramingError::*;
    let table = [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", BareLf),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", BareLf),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", BareLf),
        ("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", BareCr),
        ("GET  / HTTP/1.1\r\n\r\n", RequestLine),
        ("GET /\r\n\r\n", RequestLine),
        ("GET / x HTTP/1.1\r\n\r\n", RequestLine),
        (" GET / HTTP/1.1\r\n\r\n", RequestLine),
        ("G\u{1}T / HTTP/1.1\r\n\r\n", RequestLine),
        ("GET /\u{7f} HTTP/1.1\r\n\r\n", RequestLine),
        ("GET / HTTP/2.0\r\n\r\n", Version),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Version),
        ("GET / http/1.1\r\n\r\n", RequestLine),
    ];
    for (bytes, error) in table {
        assert_eq!(refused(bytes), Some(error), "{bytes:?}");
    }
    let headers = [
        ("Content-Length : 5\r\n", HeaderName),
        (" Content-Length: 5\r\n", HeaderName),
        ("X: a\r\n folded\r\n", HeaderName),
        ("X: a\r\n\tfolded\r\n", HeaderName),
        ("NoColon\r\n", HeaderName),
        (": empty\r\n", HeaderName),
        ("Content-Length: +5\r\n", ContentLength),
        ("Content-Length: -1\r\n", ContentLength),
        ("Content-Length: 0x5\r\n", ContentLength),
        ("Content-Length: 5, 5\r\n", ContentLength),
        ("Content-Length: \r\n", ContentLength),
        ("Content-Length: 5 5\r\n", ContentLength),
        ("Content-Length: 99999999999999999999\r\n", ContentLength),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", ContentLengthRepeated),
        ("Content-Length: 5\r\ncontent-length: 6\r\n", ContentLengthRepeated),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", BothLengths),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", BothLengths),
        ("Transfer-Encoding: gzip, chunked\r\n", TransferEncoding),
        ("Transfer-Encoding: chunked, identity\r\n", TransferEncoding),
        ("Transfer-Encoding: identity\r\n", TransferEncoding),
        ("Transfer-Encoding: xchunked\r\n", TransferEncoding),
        ("Transfer-Encoding: \"chunked\"\r\n", TransferEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", TransferEncoding),
        ("Transfer-Encoding:\u{b}chunked\r\n", HeaderValue),
    ];
    for (lines, error) in headers {
        assert_eq!(refused(&with(lines)), Some(error), "{lines:?}");
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refused(old), Some(TransferEncoding));
}

#[test]
fn refuses_bad_chunks() {
    for body in [
        "\r\n",
        "g\r\n",
        "0x3\r\nabc\r\n",
        "3 \r\nabc\r\n",
        " 3\r\nabc\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabXX0\r\n\r\n",
        "-1\r\n",
        "+1\r\n",
        "1000000000000000\r\n",
        "3 ;x\r\nabc\r\n",
    ] {
        let bytes = format!("{}{body}", with("Transfer-Encoding: chunked\r\n"));
        assert_eq!(refused(&bytes), Some(FramingError::Chunk), "{body:?}");
    }
    for (body, error) in [
        ("3\nabc\r\n0\r\n\r\n", FramingError::BareLf),
        ("3;a\nabc\r\n0\r\n\r\n", FramingError::BareLf),
        ("3;a=\rb\r\nabc\r\n0\r\n\r\n", FramingError::BareCr),
        ("3\r\nabc\n0\r\n\r\n", FramingError::BareLf),
        ("0\r\nX : y\r\n\r\n", FramingError::HeaderName),
        ("0\r\n\n", FramingError::BareLf),
    ] {
        let bytes = format!("{}{body}", with("Transfer-Encoding: chunked\r\n"));
        assert_eq!(refused(&bytes), Some(error), "{body:?}");
    }
    let long = format!("{}3;{}\r\nabc\r\n", with("Transfer-Encoding: chunked\r\n"), "x".repeat(300));
    assert_eq!(refused(&long), Some(FramingError::Chunk));
}

#[test]
fn bounds_heads() {
    let many: String = (0..20).map(|n| format!("X-{n}: y\r\n")).collect();
    assert_eq!(refused(&with(&many)), Some(FramingError::HeadTooLarge));
    assert_eq!(refused(&with(&format!("X: {}\r\n", "y".repeat(1100)))), Some(FramingError::HeadTooLarge));
    assert_eq!(refused(&format!("GET /{} HTTP/1.1\r\n", "y".repeat(1100))), Some(FramingError::TargetTooLong));
    // A line that never ends is cut off too.
    let mut slow = framing();
    slow.read(b"GET / HTTP/1.1\r\nX: ").unwrap();
    let end = (0..2000).find_map(|_| slow.read(b"y").err());
    assert_eq!(end.map(|refused| refused.error), Some(FramingError::HeadTooLarge));
    let mut blank = framing();
    let end = (0..2000).find_map(|_| blank.read(b"\r\n").err());
    assert_eq!(end.map(|refused| refused.error), Some(FramingError::RequestLine));
}

#[test]
fn tells_where_the_refused_message_begins() {
    let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let refused = framing().read(format!("{good}GET /\n").as_bytes()).unwrap_err();
    assert_eq!(refused, Refused { message_start: good.len(), error: FramingError::BareLf });
}

fn message() -> impl Strategy<Value = String> {
    let length =
        "[a-z]{0,40}".prop_map(|body| format!("POST /l HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    let chunk = "[a-z]{1,20}".prop_map(|data| format!("{:x};e=\"v\"\r\n{data}\r\n", data.len()));
    let chunked = proptest::collection::vec(chunk, 0..4).prop_map(|chunks| {
        format!("POST /c HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n{}0\r\nT: v\r\n\r\n", chunks.concat())
    });
    let none = Just("\r\nGET /n HTTP/1.1\r\nX: y\r\n\r\n".to_owned());
    prop_oneof![length, chunked, none]
}

proptest! {
    /// However the network cuts the bytes, every message is seen to its end.
    #[test]
    fn cuts_do_not_matter(messages in proptest::collection::vec(message(), 1..5), cuts in proptest::collection::vec(1_usize..30, 1..60)) {
        let bytes = messages.concat().into_bytes();
        let mut framing = framing();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (piece, more) = rest.split_at((*cut).min(rest.len()));
            prop_assert!(framing.read(piece).is_ok());
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(framing.phase(), Phase::Idle);
    }

    /// Arbitrary bytes never panic, and cut or uncut give the same verdict.
    #[test]
    fn garbage_is_judged_alike(bytes in "(GET|POST|[\\x00-\\x7f]{0,3}) / HTTP/1.1\r?\n(Content-Length: ?[0-9]{1,3}\r\n|Transfer-Encoding: chunked\r\n|[\\x00-\\x7f]{0,12}\r\n){0,3}\r\n[\\x00-\\x7f]{0,60}", cut in 1_usize..20) {
        let whole = framing().read(bytes.as_bytes()).map_err(|refused| refused.error);
        let mut pieces = framing();
        let cut = bytes.as_bytes().chunks(cut).try_for_each(|piece| pieces.read(piece)).map_err(|refused| refused.error);
        prop_assert_eq!(whole, cut);
    }
}
