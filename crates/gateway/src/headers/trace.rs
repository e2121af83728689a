//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>) and `x-request-id`.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::hex;
use super::survey::Survey;
use crate::random;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The header that names a request in logs.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// `00-` + 32 + `-` + 16 + `-` + 2.
const TRACEPARENT_LEN: usize = 55;
const SAMPLED: u8 = 1;
/// Longer request ids are replaced: they end up in every log line.
const REQUEST_ID_MAX: usize = 128;

/// The trace that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    id: [u8; 16],
    flags: u8,
}

impl Trace {
    /// The caller's trace. If there is none, or its header is malformed or repeated, a new one begins, and a
    /// `tracestate`, which would belong to another trace, is removed.
    ///
    /// A new trace is marked as sampled: an OpenTelemetry service without a parent records by default too.
    pub(crate) fn begin(headers: &mut HeaderMap, seen: Survey) -> Self {
        if seen.has(Survey::TRACEPARENT)
            && !seen.has(Survey::TRACEPARENT_AGAIN)
            && let Some(trace) = headers.get(TRACEPARENT).and_then(|value| Self::parse(value.as_bytes()))
        {
            return trace;
        }
        if seen.has(Survey::TRACESTATE) {
            headers.remove(TRACESTATE);
        }
        Self { id: nonzero(), flags: SAMPLED }
    }

    /// Reads a `traceparent`; versions after 00 are read as far as 00 defines them.
    fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(TRACEPARENT_LEN)?;
        if head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
            return None;
        }
        let [version] = hex::read::<1>(&head[..2])?;
        let id = hex::read::<16>(&head[3..35])?;
        let parent = hex::read::<8>(&head[36..52])?;
        let [flags] = hex::read::<1>(&head[53..])?;
        let rest_fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        // Only the sampled bit is defined in version 00; the others must be sent as zero.
        (rest_fits && id != [0; 16] && parent != [0; 8]).then_some(Self { id, flags: flags & SAMPLED })
    }

    /// Gives an attempt a span of its own, in the request that is about to be sent.
    pub(crate) fn start_span(&self, headers: &mut HeaderMap) {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex::write(&self.id, &mut text[3..35]);
        hex::write(&nonzero::<8>(), &mut text[36..52]);
        hex::write(&[self.flags], &mut text[53..]);
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            headers.insert(TRACEPARENT, value);
        }
    }

    /// The trace's id, for logs.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.id
    }
}

/// Random bytes, not all zero.
fn nonzero<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    for part in bytes.chunks_exact_mut(8) {
        part.copy_from_slice(&(random::next_u64() | 1).to_ne_bytes());
    }
    bytes
}

/// The request's id: the caller's if it is usable in a log line, a new one otherwise. It goes upstream and comes back
/// with the answer.
pub(crate) fn request_id(headers: &mut HeaderMap, seen: Survey) -> HeaderValue {
    if seen.has(Survey::REQUEST_ID)
        && !seen.has(Survey::REQUEST_ID_AGAIN)
        && let Some(value) = headers.get(X_REQUEST_ID)
        && (1..=REQUEST_ID_MAX).contains(&value.len())
        && value.as_bytes().iter().all(u8::is_ascii_graphic)
    {
        return value.clone();
    }
    let mut text = [0; 32];
    hex::write(&nonzero::<16>(), &mut text);
    let value = HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("none"));
    headers.insert(X_REQUEST_ID, value.clone());
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(headers: &mut HeaderMap) -> HeaderValue {
        let seen = Survey::of(headers);
        request_id(headers, seen)
    }

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn begin(parents: &[&str]) -> (Option<Trace>, HeaderMap) {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, parent.parse().unwrap());
        }
        headers.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
        let seen = Survey::of(&headers);
        let trace = Trace::begin(&mut headers, seen);
        (headers.contains_key(TRACESTATE).then_some(trace), headers)
    }

    #[test]
    fn continues_a_trace_with_a_new_span() {
        let (trace, mut headers) = begin(&[GOOD]);
        let trace = trace.unwrap();
        trace.start_span(&mut headers);
        let first = headers[TRACEPARENT].to_str().unwrap().to_owned();
        assert!(first.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && first.ends_with("-01"));
        assert_ne!(first, GOOD);
        trace.start_span(&mut headers);
        assert_ne!(headers[TRACEPARENT].to_str().unwrap(), first);
        assert_eq!(headers[TRACESTATE], "vendor=1");
        assert!(Trace::parse(first.as_bytes()).is_some());
    }

    #[test]
    fn later_versions_are_read_as_far_as_known() {
        let later = format!("cc{}-what-comes", &GOOD[2..]);
        assert!(begin(&[&later]).0.is_some());
        assert!(begin(&[&format!("cc{}", &GOOD[2..])]).0.is_some());
        assert!(begin(&[&format!("cc{}.x", &GOOD[2..])]).0.is_none());
    }

    #[test]
    fn malformed_begins_a_new_trace() {
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01x",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(begin(&[bad]).0, None, "{bad}");
        }
        assert_eq!(begin(&[GOOD, GOOD]).0, None);
        assert_eq!(begin(&[]).0, None);
    }

    #[test]
    fn unknown_flags_are_not_sent_on() {
        let trace = begin(&["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff"]).0.unwrap();
        assert_eq!(trace.flags, SAMPLED);
    }

    #[test]
    fn request_ids_are_kept_or_made() {
        let mut headers = HeaderMap::new();
        let made = id(&mut headers);
        assert_eq!(made.len(), 32);
        assert_eq!(headers[X_REQUEST_ID], made);
        assert_eq!(id(&mut headers), made);
        headers.insert(X_REQUEST_ID, HeaderValue::from_str(&"x".repeat(129)).unwrap());
        assert_eq!(id(&mut headers).len(), 32);
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("has space"));
        assert_eq!(id(&mut headers).len(), 32);
    }
}
