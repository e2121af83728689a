//! Request smuggling: whatever two parsers could read differently never reaches the upstream.

use crate::support::{Gateway, RawUpstream};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The request that an attacker wants to hide.
const HIDDEN: &str = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";

fn post(headers: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}")
}

/// Known attacks (Linhart et al. 2005; Kettle, "HTTP Desync Attacks", 2019; the CL.0, TE.0 and chunk-extension families
/// of 2022 to 2025; RFC 9112, 11.2).
fn attacks() -> Vec<(&'static str, String)> {
    let chunked_end = format!("0\r\n\r\n{HIDDEN}");
    let with_length = format!("Content-Length: {}\r\n", chunked_end.len());
    vec![
        ("CL.TE", post(&format!("{with_length}Transfer-Encoding: chunked\r\n"), &chunked_end)),
        ("TE.CL", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "5c\r\n")),
        ("TE with space before colon", post(&format!("{with_length}Transfer-Encoding : chunked\r\n"), &chunked_end)),
        ("TE after tab", post(&format!("{with_length}Transfer-Encoding\t: chunked\r\n"), &chunked_end)),
        ("TE folded", post(&format!("{with_length}Transfer-Encoding:\r\n chunked\r\n"), &chunked_end)),
        ("TE in a folded header", post(&format!("{with_length}X: y\r\n Transfer-Encoding: chunked\r\n"), &chunked_end)),
        ("TE xchunked", post(&format!("{with_length}Transfer-Encoding: xchunked\r\n"), &chunked_end)),
        ("TE twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", &chunked_end)),
        ("TE list", post("Transfer-Encoding: chunked, identity\r\n", &chunked_end)),
        ("TE identity", post("Transfer-Encoding: identity\r\n", "")),
        ("TE vertical tab", post(&format!("{with_length}Transfer-Encoding: \u{b}chunked\r\n"), &chunked_end)),
        ("TE behind a bare LF", post(&format!("{with_length}X: y\nTransfer-Encoding: chunked\r\n"), &chunked_end)),
        ("TE behind a bare CR", post(&format!("{with_length}X: y\rTransfer-Encoding: chunked\r\n"), &chunked_end)),
        ("TE behind NUL", post(&format!("{with_length}X: y\u{0}\r\nTransfer-Encoding: chunked\r\n"), &chunked_end)),
        ("TE in HTTP/1.0", format!("POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{chunked_end}")),
        ("CL twice, differing", post("Content-Length: 0\r\nContent-Length: 33\r\n", HIDDEN)),
        ("CL twice, equal", post("Content-Length: 0\r\nContent-Length: 0\r\n", HIDDEN)),
        ("CL list", post("Content-Length: 0, 33\r\n", HIDDEN)),
        ("CL signed", post("Content-Length: +0\r\n", HIDDEN)),
        ("CL hexadecimal", post("Content-Length: 0x0\r\n", HIDDEN)),
        ("CL with space", post("Content-Length: 3 3\r\n", HIDDEN)),
        ("CL empty", post("Content-Length:\r\n", HIDDEN)),
        ("CL overflow", post("Content-Length: 18446744073709551616\r\n", HIDDEN)),
        ("CL with underscore", post("Content-Length: 1_0\r\n", HIDDEN)),
        ("CL behind a space", post(" Content-Length: 33\r\n", HIDDEN)),
        ("head ends with bare LFs", format!("GET /a HTTP/1.1\r\nHost: a\n\n{HIDDEN}")),
        ("header without colon", post("Junk\r\nContent-Length: 0\r\n", HIDDEN)),
        ("header without name", post(": junk\r\nContent-Length: 0\r\n", HIDDEN)),
        ("chunk size with LF", post("Transfer-Encoding: chunked\r\n", &format!("2\nhi\r\n{chunked_end}"))),
        ("chunk extension with LF", post("Transfer-Encoding: chunked\r\n", &format!("2;x\nhi\r\n{chunked_end}"))),
        ("chunk extension with CR", post("Transfer-Encoding: chunked\r\n", &format!("2;\rx\r\nhi\r\n{chunked_end}"))),
        (
            "chunk size hexadecimal prefix",
            post("Transfer-Encoding: chunked\r\n", &format!("0x2\r\nhi\r\n{chunked_end}")),
        ),
        ("chunk size signed", post("Transfer-Encoding: chunked\r\n", &format!("+2\r\nhi\r\n{chunked_end}"))),
        ("chunk size with space", post("Transfer-Encoding: chunked\r\n", &format!("2 \r\nhi\r\n{chunked_end}"))),
        ("chunk size overflow", post("Transfer-Encoding: chunked\r\n", "10000000000000002\r\nhi\r\n0\r\n\r\n")),
        ("chunk data too long", post("Transfer-Encoding: chunked\r\n", &format!("2\r\nhiXX{chunked_end}"))),
        ("chunk ends with LF", post("Transfer-Encoding: chunked\r\n", &format!("2\r\nhi\n{chunked_end}"))),
        (
            "trailer with space before colon",
            post("Transfer-Encoding: chunked\r\n", &format!("0\r\nX : y\r\n\r\n{HIDDEN}")),
        ),
        ("no Host", format!("GET /a HTTP/1.1\r\n\r\n{HIDDEN}")),
        ("Host twice", format!("GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{HIDDEN}")),
        ("Host with path", format!("GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n{HIDDEN}")),
        ("Host with user", format!("GET /a HTTP/1.1\r\nHost: a@b\r\n\r\n{HIDDEN}")),
        ("absolute target of another host", format!("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n{HIDDEN}")),
        ("target with space", format!("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n{HIDDEN}")),
        ("request line with two spaces", format!("GET  /a HTTP/1.1\r\nHost: a\r\n\r\n{HIDDEN}")),
        ("request line with tab", format!("GET\t/a HTTP/1.1\r\nHost: a\r\n\r\n{HIDDEN}")),
        ("version 1.2", format!("GET /a HTTP/1.2\r\nHost: a\r\n\r\n{HIDDEN}")),
        ("version 0.9", "GET /a\r\n".to_owned()),
        ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
    ]
}

#[test]
fn attacks_are_refused_and_the_connection_ends() {
    for (name, bytes) in attacks() {
        let upstream = RawUpstream::answering(OK);
        let gateway = Gateway::to(&upstream);
        let mut caller = gateway.caller();
        caller.send(&bytes);
        let answers = caller.rest();
        for seen in upstream.seen() {
            assert!(!seen.contains("/admin"), "{name}: the hidden request came through: {seen}");
            assert!(!seen.starts_with("POST"), "{name}: came through whole: {seen}");
        }
        let status = answers.split(' ').nth(1).unwrap_or("none");
        assert!(["400", "431", "505"].contains(&status), "{name}: {answers}");
        let count = answers.lines().filter(|line| line.starts_with("HTTP/1.1 ")).count();
        assert_eq!(count, 1, "{name}: one answer, then the end: {answers}");
    }
}

#[test]
fn ambiguity_in_a_later_message_ends_the_connection_too() {
    let upstream = RawUpstream::answering(OK);
    let gateway = Gateway::to(&upstream);
    let mut caller = gateway.caller();
    assert!(caller.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").answer().starts_with("HTTP/1.1 200 "));
    caller.send(&post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"));
    let answers = caller.rest();
    assert!(answers.starts_with("HTTP/1.1 400 ") && answers.contains("request-malformed"), "{answers}");
    assert_eq!(upstream.seen().len(), 1);
    // Hidden behind a good one in the same packet: refused as well, whether or not the first is still answered.
    let mut caller = gateway.caller();
    caller.send(&format!("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n{}", post("Content-Length : 5\r\n", "hello")));
    let answers = caller.rest();
    assert!(answers.matches("HTTP/1.1 200 ").count() <= 1, "{answers}");
    assert!(upstream.seen().iter().all(|seen| seen.starts_with("GET /")), "{:?}", upstream.seen());
}

#[test]
fn what_is_unusual_but_clear_passes_with_one_framing() {
    for (name, bytes, body) in [
        (
            "chunk extensions",
            post("Transfer-Encoding: Chunked\r\n", "2;a=\"b\";c\r\nhi\r\n0;d\r\n\r\n"),
            "2\r\nhi\r\n0\r\n\r\n",
        ),
        (
            "leading zeros in a chunk",
            post("Transfer-Encoding: chunked\r\n", "0002\r\nhi\r\n000\r\n\r\n"),
            "2\r\nhi\r\n0\r\n\r\n",
        ),
        ("leading zeros in a length", post("Content-Length: 0002\r\n", "hi"), "hi"),
        ("empty lines before", format!("\r\n\r\n{}", post("Content-Length: 2\r\n", "hi")), "hi"),
        ("absolute target", "POST http://a/a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi".to_owned(), "hi"),
        ("trailing space in a length", post("Content-Length: 2 \t\r\n", "hi"), "hi"),
    ] {
        let upstream = RawUpstream::answering(OK);
        let gateway = Gateway::to(&upstream);
        assert!(gateway.caller().send(&bytes).answer().starts_with("HTTP/1.1 200 "), "{name}");
        let seen = upstream.seen().remove(0).to_lowercase();
        assert!(
            seen.starts_with("post /a http/1.1\r\n") && seen.ends_with(&format!("\r\n\r\n{body}")),
            "{name}: {seen}"
        );
        let framings = seen.matches("content-length:").count() + seen.matches("transfer-encoding:").count();
        assert_eq!(framings, 1, "{name}: {seen}");
    }
}
