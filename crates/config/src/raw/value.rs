//! Reading single values: every type that may stand behind a key.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use semel_core::key::KeySource;
use semel_core::route::{HeaderCondition, HostPattern, Pattern};
use semel_core::scope::PrincipalSource;
use serde_json::Value;
use toml::de::{DeInteger, DeValue};

use super::reader::{Node, Place, Read, Refusal};
use super::show::Show;
use crate::diagnostic::did_you_mean;
use crate::effective::{
    Ack, Backoff, Cidr, DatabaseUrl, Dialect, Effect, Endpoint, ForwardKey, Keep, LogFormat, NatsUrl, OnLedgerDown,
};
use crate::syntax;

/// A duration that may be zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MaybeZero(pub(crate) Duration);
/// Bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub(crate) u64);
/// A fraction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Percent(pub(crate) f64);
/// A name of the user's: upstream, profile, scope.
#[derive(Clone, Debug)]
pub(crate) struct Name(pub(crate) String);
/// A path on this machine.
#[derive(Clone, Debug)]
pub(crate) struct FilePath(pub(crate) PathBuf);
/// A schema of a database.
#[derive(Clone, Debug)]
pub(crate) struct SchemaName(pub(crate) String);
/// A stream of NATS.
#[derive(Clone, Debug)]
pub(crate) struct StreamName(pub(crate) String);
/// A status URL with `{key}`.
#[derive(Clone, Debug)]
pub(crate) struct ProbeUrl(pub(crate) String);
/// A web origin, or `*`.
#[derive(Clone, Debug)]
pub(crate) struct CorsOrigin(pub(crate) String);
/// A host name without port.
#[derive(Clone, Debug)]
pub(crate) struct HostName(pub(crate) String);
/// A `tracing` filter.
#[derive(Clone, Debug)]
pub(crate) struct LogFilter(pub(crate) String);
/// Header conditions of a route, sorted by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions(pub(crate) Vec<HeaderCondition>);
/// The word of `on_unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnUnknownWord {
    Hold,
    Retry,
    Probe,
}

/// Reads one of a few words; `later` are words of later versions.
pub(crate) fn word<T: Copy>(words: &[(&str, T)], later: &[&str], text: &str) -> Result<T, Refusal> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    if later.contains(&text) {
        return Err(Refusal::Later(format!("{text:?}")));
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let guess = did_you_mean(text, &known).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    Err(Refusal::Invalid(format!("{text:?} is not one of the words{guess}")))
}

macro_rules! read_words {
    ($($type:ty { $($word:literal => $value:expr),* } later [$($later:literal),*];)*) => {$(
        impl Read for $type {
            fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
                let expected = [$(concat!("\"", $word, "\"")),*].join(", ");
                place.text(node, &expected, |text| word(&[$(($word, $value)),*], &[$($later),*], text))
            }
        }

        impl Show for $type {
            fn show(&self) -> Value {
                [$(($word, $value)),*].into_iter().find(|(_, value)| value == self).map_or(Value::Null, |(w, _)| w.into())
            }
        }
    )*};
}

pub(crate) use read_words;

read_words! {
    OnUnknownWord { "hold" => Self::Hold, "retry" => Self::Retry, "probe" => Self::Probe } later [];
    Dialect { "ietf" => Self::Ietf, "stripe" => Self::Stripe } later ["acp", "adcp"];
    ForwardKey { "hmac" => Self::Hmac, "as-is" => Self::AsIs } later [];
    Ack { "settled" => Self::Settled, "early" => Self::Early } later [];
    OnLedgerDown { "closed" => Self::Closed, "open" => Self::Open } later [];
    Effect {
        "once" => Self::Once, "idempotent" => Self::Idempotent, "read" => Self::Read, "forward" => Self::Forward
    } later [];
    LogFormat { "auto" => Self::Auto, "human" => Self::Human, "json" => Self::Json } later [];
}

macro_rules! read_text {
    ($($type:ty, $expected:literal, $read:expr;)*) => {$(
        impl Read for $type {
            fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
                place.text(node, $expected, $read)
            }
        }
    )*};
}

read_text! {
    Duration, "a duration such as \"10s\", \"250ms\" or \"24h\"", nonzero;
    MaybeZero, "a duration such as \"10s\", \"250ms\" or \"0s\"", |t| syntax::duration(t).map(Self);
    Keep, "a duration such as \"24h\" or \"7d\", or \"forever\"", |t| match syntax::keep(t) {
        Ok(Self::For(Duration::ZERO)) => Err("nothing would be kept".to_owned()),
        other => other,
    };
    Size, "a size such as \"1MiB\" or \"64KiB\"", |t| syntax::size(t).map(Self);
    Percent, "a percentage such as \"20%\"", |t| syntax::percent(t).map(Self);
    Backoff, "a range of durations such as \"50ms..20s\"", syntax::backoff;
    Endpoint, "a URL such as \"http://127.0.0.1:9000\"", |t| match t.starts_with("https://") {
        true => Err(Refusal::Later("TLS to upstreams".to_owned())),
        false => syntax::endpoint(t).map_err(Refusal::from),
    };
    Name, "a name of letters, digits, dots, dashes and underscores", |t| name(t).map(|()| Self(t.to_owned()));
    FilePath, "a path", |t| if t.is_empty() { Err("it is empty") } else { Ok(Self(t.into())) };
    DatabaseUrl, "a URL such as \"postgres://user@host/database\"", Self::parse;
    NatsUrl, "URLs such as \"nats://user:password@host:4222\", separated by commas", Self::parse;
    StreamName, "a name of lower-case letters, digits, dashes and underscores, at most 32", |t| {
        stream(t).map(|()| Self(t.to_owned()))
    };
    SchemaName, "a name of lower-case letters, digits and underscores, at most 40", |t| {
        schema(t).map(|()| Self(t.to_owned()))
    };
    SocketAddr, "an address and a port such as \"127.0.0.1:8080\"", |t| t.parse().map_err(|_| socket_hint(t));
    Cidr, "a network such as \"10.0.0.0/8\" or an address", str::parse::<Self>;
    HeaderName, "the name of a header", |t| {
        Self::from_bytes(t.as_bytes()).map_err(|_| format!("{t:?} is not the name of a header"))
    };
    KeySource, "\"header:NAME\", \"json:/pointer\", \"path:PARAMETER\", or a list of them", key_part;
    PrincipalSource, "\"credential\", \"none\" or \"header:NAME\"", principal;
    Pattern, "a method and a path such as \"POST /v1/payments\"", |t| Self::parse(t).map_err(|e| e.to_string());
    HostPattern, "a host name such as \"api.example.com\" or \"*.example.com\"", |t| {
        Self::parse(t).map_err(|e| e.to_string())
    };
    ProbeUrl, "a URL such as \"http://127.0.0.1:9000/status/{key}\"", |t| probe_url(t).map(|()| Self(t.to_owned()));
    CorsOrigin, "an origin such as \"https://shop.example.com\", or \"*\"", |t| {
        origin(t).map(|()| Self(t.to_ascii_lowercase()))
    };
    HostName, "a host name without port", |t| match HostPattern::parse(t) {
        Ok(HostPattern::Exact(name)) => Ok(Self(name)),
        _ => Err(format!("{t:?} is not a host name")),
    };
    LogFilter, "a filter such as \"info\" or \"semel_gateway=debug,info\"", |t| {
        if t.trim().is_empty() { Err("it is empty") } else { Ok(Self(t.to_owned())) }
    };
}

impl Read for String {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        place.text(node, "a text", |t| Ok::<_, String>(t.to_owned()))
    }
}

impl Read for bool {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        if let DeValue::Boolean(value) = node.get_ref() {
            return Some(*value);
        }
        place.wrong_type(node, "true or false");
        None
    }
}

fn integer(node: &Node<'_>, place: &Place<'_>, from: u32, to: u32) -> Option<u32> {
    let expected = format!("a whole number from {from} to {to}");
    let DeValue::Integer(number) = node.get_ref() else {
        place.wrong_type(node, &expected);
        return None;
    };
    let value = u32::from_str_radix(number.as_str(), DeInteger::radix(number)).ok();
    let value = value.filter(|v| (from..=to).contains(v));
    if value.is_none() {
        place.refuse(node, &expected, "it is out of range".into());
    }
    value
}

impl Read for u32 {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        integer(node, place, 1, 100)
    }
}

impl Read for usize {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        integer(node, place, 1, 1_000_000).and_then(|n| n.try_into().ok())
    }
}

impl Read for StatusCode {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        integer(node, place, 400, 599).and_then(|n| Self::from_u16(n.try_into().ok()?).ok())
    }
}

impl Read for Conditions {
    fn read(node: &Node<'_>, place: &Place<'_>) -> Option<Self> {
        let DeValue::Table(table) = node.get_ref() else {
            place.wrong_type(node, "a table such as { x-version = \"2\" }");
            return None;
        };
        let mut conditions = Vec::new();
        for (key, node) in table {
            let expected = "header names with a value, or true where the header must be there";
            let Ok(name) = HeaderName::from_bytes(key.get_ref().as_bytes()) else {
                place.refuse(node, expected, format!("{:?} is not the name of a header", key.get_ref()).into());
                continue;
            };
            let value = match node.get_ref() {
                DeValue::Boolean(true) => None,
                DeValue::String(text) if HeaderValue::from_str(text).is_ok() => HeaderValue::from_str(text).ok(),
                _ => {
                    place.refuse(node, expected, "it is neither a header value nor true".into());
                    continue;
                }
            };
            conditions.push(HeaderCondition { name, value });
        }
        conditions.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        if let Some(pair) = conditions.windows(2).find(|pair| pair[0].name == pair[1].name) {
            place.refuse(node, "each header once", format!("`{}` stands twice", pair[0].name).into());
        }
        Some(Self(conditions))
    }
}

fn schema(text: &str) -> Result<(), String> {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    let starts = text.bytes().next().is_some_and(|c| !c.is_ascii_digit());
    if text.len() <= 40 && starts && text.bytes().all(fits) {
        return Ok(());
    }
    Err(format!("{text:?} is no name of a schema"))
}

fn stream(text: &str) -> Result<(), String> {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-';
    if (1..=32).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(());
    }
    Err(format!("{text:?} is no name of a stream"))
}

fn nonzero(text: &str) -> Result<Duration, String> {
    match syntax::duration(text)? {
        Duration::ZERO => Err("zero is not possible here".to_owned()),
        duration => Ok(duration),
    }
}

/// Checks a name of the user's: it stands in metrics, in the ledger and in URLs.
pub(crate) fn name(text: &str) -> Result<(), String> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    match text.len() {
        0 => Err("it is empty".to_owned()),
        1..=64 if text.bytes().all(ok) => Ok(()),
        1..=64 => Err("only letters, digits, dots, dashes and underscores are possible".to_owned()),
        _ => Err("it is longer than 64 characters".to_owned()),
    }
}

fn socket_hint(text: &str) -> String {
    if text.starts_with(':') {
        format!("the address is missing: \"0.0.0.0{text}\" for all, \"127.0.0.1{text}\" for this machine only")
    } else if text.starts_with("localhost:") {
        "write the address, not a name: \"127.0.0.1\" or \"[::1]\"".to_owned()
    } else {
        format!("{text:?} is not an IP address with a port")
    }
}

fn key_part(text: &str) -> Result<KeySource, Refusal> {
    if text == "content" {
        return Err(Refusal::Later("a key from the \"content\" of the request".to_owned()));
    }
    let source: KeySource = text.parse().map_err(|e: semel_core::key::KeySpecError| e.to_string())?;
    if let KeySource::Header(name) = &source {
        let names_no_call = ["authorization", "cookie", "host", "content-length", "transfer-encoding"];
        if names_no_call.contains(&name.as_str()) {
            return Err(format!("`{name}` does not name one call").into());
        }
    }
    Ok(source)
}

fn principal(text: &str) -> Result<PrincipalSource, Refusal> {
    if ["jwt", "mtls"].contains(&text) {
        return Err(Refusal::Later(format!("the principal {text:?}")));
    }
    text.parse().map_err(|e: semel_core::scope::PrincipalSourceError| e.to_string().into())
}

fn probe_url(text: &str) -> Result<(), String> {
    if text.matches("{key}").count() != 1 {
        return Err("`{key}` must stand in it exactly once".to_owned());
    }
    let (head, _) = text.split_once("{key}").unwrap_or((text, ""));
    let authority = head.strip_prefix("http://").ok_or("it must start with http://")?;
    let Some((authority, _)) = authority.split_once('/') else {
        return Err("`{key}` must stand in the path or the query, not in the host".to_owned());
    };
    syntax::endpoint(&format!("http://{authority}"))?;
    let example: Result<http::Uri, _> = text.replace("{key}", "k").parse();
    example.map(|_| ()).map_err(|e| e.to_string())
}

fn origin(text: &str) -> Result<(), String> {
    if text == "*" {
        return Ok(());
    }
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let rest = rest.ok_or("it must start with https:// or http://")?;
    let ok = rest.parse::<http::uri::Authority>().is_ok_and(|a| !a.as_str().contains('@'));
    if ok { Ok(()) } else { Err("an origin is a scheme, a host and a port, without a path".to_owned()) }
}
