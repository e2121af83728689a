//! Which headers of an answer may be kept, and how they are kept.

use crate::headers::{HOP_BY_HOP, is_hop_by_hop};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::fmt;

/// Kept on every route.
const ALWAYS: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    header::CONTENT_LANGUAGE,
    header::CONTENT_ENCODING,
    header::LOCATION,
    header::ETAG,
    header::LINK,
    header::RETRY_AFTER,
];

/// Never kept, whatever a route asks for.
const NEVER: [HeaderName; 8] = [
    header::SET_COOKIE,
    header::COOKIE,
    header::AUTHORIZATION,
    header::WWW_AUTHENTICATE,
    header::DATE,
    header::AGE,
    header::CONTENT_LENGTH,
    HeaderName::from_static("set-cookie2"),
];

/// Never kept: what the gateway itself says, and CORS, which is computed for the current Origin.
const NEVER_PREFIXES: [&str; 5] = ["access-control-", "semel-", "idempotent-", "idempotency-", "proxy-"];

/// The headers of an answer that a route keeps: the contract's list and the route's own choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderAllowList {
    extras: Box<[HeaderName]>,
}

/// A header that must not be replayed, asked for in the config.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header `{name}` cannot be kept for replays: {reason}; remove it from the list")]
pub struct NotStorable {
    /// The header asked for.
    pub name: HeaderName,
    /// Why it is never kept.
    pub reason: &'static str,
}

impl HeaderAllowList {
    /// The contract's list and `extras`.
    ///
    /// # Errors
    /// Where an extra must never be replayed: credentials, cookies, CORS, hop-by-hop headers, Date, framing, and the
    /// names the gateway itself answers with.
    pub fn new(extras: Vec<HeaderName>) -> Result<Self, NotStorable> {
        for name in &extras {
            if let Some(reason) = reason_never(name) {
                return Err(NotStorable { name: name.clone(), reason });
            }
        }
        Ok(Self { extras: extras.into() })
    }

    /// Whether this list keeps `name`.
    #[must_use]
    pub fn keeps(&self, name: &HeaderName) -> bool {
        ALWAYS.contains(name) || self.extras.contains(name)
    }

    /// The headers that are kept; what the answer's own `Connection` header nominates is not.
    #[must_use]
    pub fn filter(&self, headers: &HeaderMap) -> StoredHeaders {
        let nominates = headers.contains_key(header::CONNECTION);
        let kept = headers
            .iter()
            .filter(|(name, _)| self.keeps(name) && !(nominates && is_hop_by_hop(name, headers)))
            .map(|(name, value)| (name.clone(), value.clone()));
        StoredHeaders(kept.collect())
    }
}

fn reason_never(name: &HeaderName) -> Option<&'static str> {
    if HOP_BY_HOP.contains(name) {
        return Some("it belongs to one connection");
    }
    if NEVER.contains(name) {
        return Some("it belongs to one caller, one moment or one message");
    }
    let prefixed = NEVER_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix));
    prefixed.then_some("the gateway computes it anew for every answer")
}

/// Header fields as they are kept: names, values and order as the upstream sent them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoredHeaders(Vec<(HeaderName, HeaderValue)>);

impl StoredHeaders {
    /// The fields in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds every field to `headers`.
    pub fn append_to(&self, headers: &mut HeaderMap) {
        headers.reserve(self.0.len());
        for (name, value) in &self.0 {
            headers.append(name.clone(), value.clone());
        }
    }
}

impl fmt::Debug for StoredHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<C> minicbor::Encode<C> for StoredHeaders {
    /// One flat array: name, value, name, value.
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.array(self.0.len() as u64 * 2)?;
        for (name, value) in &self.0 {
            e.str(name.as_str())?.bytes(value.as_bytes())?;
        }
        Ok(())
    }
}

impl<'b, C> minicbor::Decode<'b, C> for StoredHeaders {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        use minicbor::decode::Error;
        let items = d.array()?.ok_or_else(|| Error::message("stored headers have a known count"))?;
        if items % 2 != 0 {
            return Err(Error::message("stored headers are pairs"));
        }
        // The count is not trusted with memory: a damaged one fails at the end of the input.
        let mut fields = Vec::with_capacity(usize::try_from(items / 2).unwrap_or(usize::MAX).min(64));
        for _ in 0..items / 2 {
            let name = HeaderName::from_bytes(d.str()?.as_bytes()).map_err(|_| Error::message("no header name"))?;
            let value = HeaderValue::from_bytes(d.bytes()?).map_err(|_| Error::message("no header value"))?;
            fields.push((name, value));
        }
        Ok(Self(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn keeps_the_contract_s_list_and_the_route_s_choice() {
        let list = HeaderAllowList::new(vec![HeaderName::from_static("x-charge")]).unwrap();
        let kept = list.filter(&map(&[
            ("content-type", "text/plain"),
            ("set-cookie", "a=b"),
            ("location", "/charges/1"),
            ("date", "now"),
            ("link", "<a>"),
            ("link", "<b>"),
            ("x-charge", "1"),
            ("x-other", "1"),
            ("access-control-allow-origin", "*"),
        ]));
        let names: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["content-type", "location", "link", "link", "x-charge"]);
        let mut replayed = HeaderMap::new();
        kept.append_to(&mut replayed);
        assert_eq!(replayed.get_all("link").iter().count(), 2);
        assert_eq!(kept.get(&header::LOCATION).unwrap(), "/charges/1");
    }

    #[test]
    fn what_connection_nominates_is_not_kept() {
        let list = HeaderAllowList::default();
        let kept = list.filter(&map(&[("connection", "ETag"), ("etag", "\"1\""), ("location", "/")]));
        assert_eq!(kept.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["location"]);
    }

    #[test]
    fn forbidden_extras_are_a_config_error() {
        for name in [
            "set-cookie",
            "authorization",
            "access-control-allow-origin",
            "connection",
            "transfer-encoding",
            "proxy-authenticate",
            "proxy-status",
            "date",
            "content-length",
            "semel-effect",
            "idempotent-replayed",
            "idempotency-key",
        ] {
            let error = HeaderAllowList::new(vec![HeaderName::from_static(name)]).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        assert!(HeaderAllowList::new(vec![header::VARY]).is_ok());
    }
}
