//! The head of a request: method, path, query, media type, conditional headers.

use super::{FieldHasher, FingerprintInput};
use http::header::{self, HeaderName};

/// Headers that change what a request does (RFC 9110 section 13.1), in the order they are hashed.
const CONDITIONAL: [HeaderName; 5] =
    [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE, header::IF_RANGE];

pub(super) fn hash(input: &FingerprintInput<'_>, hasher: &mut FieldHasher) {
    hasher.field(b'm', input.method.as_str().as_bytes());
    hasher.field(b'p', input.path.as_bytes());
    if let Some(query) = input.query {
        hash_query(query, hasher);
    }
    hash_media_type(input, hasher);
    for name in &CONDITIONAL {
        for value in input.headers.get_all(name) {
            hasher.field(b'c', name.as_str().as_bytes());
            hasher.field(b'v', value.as_bytes());
        }
    }
}

/// Pairs sorted by name as it came; values of one name keep their order, because for some services it matters.
fn hash_query(query: &str, hasher: &mut FieldHasher) {
    let mut pairs: Vec<&str> = query.split('&').collect();
    pairs.sort_by_key(|pair| pair.split_once('=').map_or(*pair, |(name, _)| name));
    hasher.count(b'q', pairs.len());
    for pair in pairs {
        hasher.field(b'=', pair.as_bytes());
    }
}

/// What a media type says: JSON and multipart by their name alone, everything else with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType<'a> {
    /// `application/json` or a `+json` type.
    Json,
    /// `multipart/form-data` with its boundary.
    Multipart(&'a str),
    /// Anything else, and no type at all.
    Other,
}

impl<'a> MediaType<'a> {
    /// Reads the request's one Content-Type.
    pub(super) fn of(input: &FingerprintInput<'a>) -> Self {
        let Some(value) = single(input) else { return Self::Other };
        let essence = essence(value);
        let suffix = essence.as_bytes().last_chunk::<5>();
        if essence.eq_ignore_ascii_case("application/json")
            || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(b"+json"))
        {
            return Self::Json;
        }
        if essence.eq_ignore_ascii_case("multipart/form-data") {
            let boundary = parameters(value).find(|(name, _)| name.eq_ignore_ascii_case("boundary"));
            // A quoted boundary with escapes is legal and never seen: such a body counts raw.
            if let Some((_, boundary)) = boundary
                && (1..=70).contains(&boundary.len())
                && !boundary.contains(['"', '\\'])
            {
                return Self::Multipart(boundary);
            }
        }
        Self::Other
    }
}

fn hash_media_type(input: &FingerprintInput<'_>, hasher: &mut FieldHasher) {
    let Some(value) = single(input) else {
        for value in input.headers.get_all(header::CONTENT_TYPE) {
            hasher.field(b'T', value.as_bytes());
        }
        return;
    };
    hash_lower_case(b't', essence(value), hasher);
    if MediaType::of(input) != MediaType::Other {
        // A charset on JSON means nothing (RFC 8259 section 11), and a boundary is drawn anew for every attempt.
        return;
    }
    let mut parameters: Vec<_> = parameters(value).collect();
    parameters.sort_by_cached_key(|(name, _)| name.to_ascii_lowercase());
    for (name, value) in parameters {
        hash_lower_case(b'n', name, hasher);
        if name.eq_ignore_ascii_case("charset") {
            hash_lower_case(b'v', value, hasher);
        } else {
            hasher.field(b'v', value.as_bytes());
        }
    }
}

/// The only Content-Type, where it is one and is text.
fn single<'a>(input: &FingerprintInput<'a>) -> Option<&'a str> {
    let mut values = input.headers.get_all(header::CONTENT_TYPE).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn essence(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

/// Parameters with their quotes taken off. A `;` inside quotes splits wrongly but always the same way, which is all a
/// fingerprint needs: such parameters are compared piece by piece.
fn parameters(value: &str) -> impl Iterator<Item = (&str, &str)> {
    value.split(';').skip(1).filter_map(|parameter| {
        let parameter = parameter.trim();
        if parameter.is_empty() {
            return None;
        }
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim();
        let unquoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        Some((name.trim(), unquoted.unwrap_or(value)))
    })
}

/// Hashes text in lower case without allocating.
fn hash_lower_case(tag: u8, text: &str, hasher: &mut FieldHasher) {
    hasher.count(tag, text.len());
    let mut chunk = [0; 64];
    for piece in text.as_bytes().chunks(chunk.len()) {
        let lower = &mut chunk[..piece.len()];
        lower.copy_from_slice(piece);
        lower.make_ascii_lowercase();
        sha2::Digest::update(&mut hasher.0, &*lower);
    }
}
