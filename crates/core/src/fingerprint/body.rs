//! The body of a request, by what its media type says it is.

use super::head::MediaType;
use super::{FieldHasher, FingerprintInput, multipart};
use crate::canonical_json::canonicalise;
use http::header;
use sha2::{Digest, Sha256};

pub(super) fn hash(input: &FingerprintInput<'_>, hasher: &mut FieldHasher) {
    if let Some(coded) = content_coding(input) {
        // An encoded body is not opened: the same bytes under the same coding, or another request.
        for value in coded {
            hasher.field(b'E', value);
        }
        return raw(input.body, hasher);
    }
    match MediaType::of(input) {
        MediaType::Json => match canonicalise(input.body) {
            Ok(json) => hasher.last(b'J').update(json),
            Err(_) => raw(input.body, hasher),
        },
        MediaType::Multipart(boundary) => match multipart::parts(input.body, boundary) {
            Some(parts) => {
                hasher.count(b'P', parts.len());
                for part in parts {
                    hasher.field(b'h', part.head);
                    hasher.field(b'd', &Sha256::digest(part.content));
                }
            }
            None => raw(input.body, hasher),
        },
        MediaType::Other => raw(input.body, hasher),
    }
}

fn raw(body: &[u8], hasher: &mut FieldHasher) {
    hasher.last(b'R').update(body);
}

/// The codings of the body, where there is one beside `identity`.
fn content_coding<'a>(input: &FingerprintInput<'a>) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
    let codings = || input.headers.get_all(header::CONTENT_ENCODING).iter().map(http::HeaderValue::as_bytes);
    let coded = codings().any(|value| !value.trim_ascii().eq_ignore_ascii_case(b"identity"));
    coded.then(codings)
}
