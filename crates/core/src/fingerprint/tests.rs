use super::*;
use http::HeaderValue;
use proptest::prelude::*;

struct Request {
    method: Method,
    path: &'static str,
    query: Option<String>,
    headers: HeaderMap,
    body: Vec<u8>,
}

fn post(content_type: &str, body: &str) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", content_type.parse().unwrap());
    Request { method: Method::POST, path: "/pay", query: None, headers, body: body.into() }
}

impl Request {
    fn print(&self) -> Fingerprint {
        Fingerprint::of(&FingerprintInput {
            method: &self.method,
            path: self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            body: &self.body,
        })
    }

    fn query(mut self, query: &str) -> Self {
        self.query = Some(query.to_owned());
        self
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }
}

fn json(body: &str) -> Fingerprint {
    post("application/json", body).print()
}

#[test]
fn f1_is_frozen() {
    // Computed apart from this code. A change makes every recorded key look reused for something else: make an f2.
    let all = post("application/json", r#"{"b":1.0,"a":null}"#).query("b=1&a=2").header("if-match", "\"1\"");
    assert_eq!(all.print().to_string(), "f1:f5b2590d28f4b24a02c123996b526c7d5b83142ccf80c4c660dd5b9cf5524367");
    let form = post("multipart/form-data; boundary=x", "--x\r\nA: 1\r\n\r\none\r\n--x--").print();
    assert_eq!(form.to_string(), "f1:984989e2c9765857d488824ad478d615d70c6b24c4b883e001c8958d8f664e7c");
    let raw = post("text/plain; charset=UTF-8", "hello").print();
    assert_eq!(raw.to_string(), "f1:df46b85641d20c7e893dd0aae038e1a3ce48c0f1d0720740c970ce604c229dac");
}

#[test]
fn every_part_counts() {
    let base = || post("application/json", r#"{"a":1}"#);
    let variants = [
        base(),
        Request { method: Method::PUT, ..base() },
        Request { path: "/pay/", ..base() },
        base().query(""),
        base().query("a=1"),
        post("application/merge-patch+json", r#"{"a":1}"#),
        post("text/plain", r#"{"a":1}"#),
        post("application/json", r#"{"a":2}"#),
        post("application/json", ""),
        base().header("if-match", "a"),
        base().header("if-none-match", "a"),
        base().header("if-match", "a").header("if-match", "b"),
        base().header("content-encoding", "gzip"),
        base().header("content-encoding", "br"),
        base().header("content-type", "application/json"),
        Request { headers: HeaderMap::new(), ..base() },
    ];
    for (at, one) in variants.iter().enumerate() {
        for two in &variants[at + 1..] {
            assert_ne!(one.print(), two.print(), "{:?} {:?}", one.headers, two.headers);
        }
        assert!(one.print().matches(&FingerprintInput {
            method: &one.method,
            path: one.path,
            query: one.query.as_deref(),
            headers: &one.headers,
            body: &one.body,
        }));
    }
}

#[test]
fn what_does_not_count() {
    let base = post("application/json", r#"{"a":1}"#).print();
    for same in [
        post("Application/JSON; charset=utf-8", r#"{ "a": 1.0 }"#),
        post("application/json", r#"{"a":1}"#).header("traceparent", "00-1").header("authorization", "b"),
        post("application/json", r#"{"a":1}"#).header("content-encoding", "identity"),
    ] {
        assert_eq!(same.print(), base);
    }
}

#[test]
fn json_bodies() {
    assert_eq!(json(r#"{"a":1,"b":[1,2]}"#), json(r#"{"b":[1,2],"a":1}"#));
    assert_ne!(json(r#"{"a":1,"b":[1,2]}"#), json(r#"{"a":1,"b":[2,1]}"#));
    assert_ne!(json(r#"{"a":1}"#), json(r#"{"a":1,"b":null}"#), "null is not absent");
    // What has no canonical form counts byte by byte.
    assert_eq!(json(r#"{"a":1,"a":1}"#), json(r#"{"a":1,"a":1}"#));
    assert_ne!(json(r#"{"a":1,"a":1}"#), json(r#"{"a":1, "a":1}"#));
    assert_ne!(json("9007199254740993"), json("9007199254740992"));
    let coded = |body| post("application/json", body).header("content-encoding", "gzip").print();
    assert_ne!(coded(r#"{"a":1,"b":2}"#), coded(r#"{"b":2,"a":1}"#), "an encoded body is not opened");
    let vnd = |body| post("application/vnd.api+JSON;v=2", body).print();
    assert_eq!(vnd(r#"{"a":1,"b":2}"#), vnd(r#"{"b":2,"a":1}"#));
}

#[test]
fn queries() {
    let query = |text: &str| post("text/plain", "").query(text).print();
    assert_eq!(query("b=1&a=2"), query("a=2&b=1"));
    assert_ne!(query("a=1&a=2"), query("a=2&a=1"), "the order of one name's values may matter");
    assert_eq!(query("a=1&b=3&a=2"), query("b=3&a=1&a=2"));
    assert_ne!(query("a"), query("a="));
    assert_ne!(query("ab=1"), query("a=b1"));
    assert_ne!(query("a=1&b=2"), query("a=1%26b=2"));
}

#[test]
fn multipart_bodies() {
    let form = |boundary: &str, content: &str| {
        let body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\n{content}\r\n--{boundary}--\r\n"
        );
        post(&format!("multipart/form-data; boundary=\"{boundary}\""), &body).print()
    };
    assert_eq!(form("one", "x"), form("two", "x"));
    assert_ne!(form("one", "x"), form("one", "y"));
    let broken = |boundary: &str| post(&format!("multipart/form-data; boundary={boundary}"), "--a\r\n\r\nx").print();
    assert_eq!(broken("a"), broken("a"));
    let unnamed = post("multipart/form-data", "--a--").print();
    assert_ne!(unnamed, post("multipart/form-data; boundary=a", "--a--").print(), "without a boundary it is raw");
}

#[test]
fn media_types() {
    let of = |content_type: &str| post(content_type, "x").print();
    assert_eq!(of("text/plain; charset=UTF-8"), of("TEXT/Plain;Charset=\"utf-8\""));
    assert_eq!(of("text/plain; a=1; b=2"), of("text/plain;b=2;a=1;"));
    assert_ne!(of("text/plain; a=x"), of("text/plain; a=X"));
    assert_ne!(of("text/plain; charset=utf-8"), of("text/plain"));
}

#[test]
fn damage_is_an_error() {
    let mut cbor = minicbor::to_vec(json("1")).unwrap();
    assert_eq!(cbor.len(), 35);
    assert_eq!(minicbor::decode::<Fingerprint>(&cbor).unwrap(), json("1"));
    cbor[2] = 9;
    assert!(minicbor::decode::<Fingerprint>(&cbor).is_err(), "a later version is not guessed at");
    assert!(minicbor::decode::<Fingerprint>(&[0x40]).is_err());
}

proptest! {
    #[test]
    fn nothing_panics(content_type in "[ -~]{0,30}", query in "[a-c=&%]{0,12}", body in ".{0,40}") {
        let mut request = post("text/plain", &body).query(&query);
        request.headers.insert("content-type", HeaderValue::from_str(&content_type).unwrap());
        prop_assert_eq!(request.print(), request.print());
    }

    #[test]
    fn fields_do_not_run_into_each_other(
        one in ("[a-b]{0,3}", "[a-b]{0,3}", "[a-b]{0,3}"),
        two in ("[a-b]{0,3}", "[a-b]{0,3}", "[a-b]{0,3}"),
    ) {
        let print = |(query, tag, body): &(String, String, String)| {
            post("text/plain", body).query(query).header("if-match", tag).print()
        };
        prop_assert_eq!(print(&one) == print(&two), one == two);
    }
}
