//! Where a route takes its key from, as data.

use super::{IdempotencyKey, JsonPointer, JsonPointerError, KeyError, KeyFault};
use http::header::{HeaderMap, HeaderName};
use std::fmt;
use std::str::FromStr;

/// Most parts of a joined key.
const PARTS_MAX: usize = 8;

/// One place a key, or a part of a joined key, comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// `header:<name>`.
    Header(HeaderName),
    /// `json:<pointer>`: a string or an integer in the JSON body.
    Json(JsonPointer),
    /// `path:<parameter>` of the route's path template.
    Path(Box<str>),
}

/// A route's key: one source, or several joined into a natural key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeySpec(Box<[KeySource]>);

/// What a key is read from.
#[derive(Clone, Copy, Debug)]
pub struct KeyFrom<'a> {
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The whole body; may be empty where [`KeySpec::reads_body`] is false.
    pub body: &'a [u8],
    /// The path template's parameters with their values.
    pub path: &'a [(&'a str, &'a str)],
}

/// Why a text or a list is no [`KeySpec`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySpecError {
    /// The kind of source is unknown.
    #[error("`{0}` is no key source: use `header:<name>`, `json:/<pointer>` or `path:<parameter>`")]
    Unknown(String),
    /// What follows `header:` is no header name.
    #[error("`{0}` is no header name: use for example `header:idempotency-key`")]
    HeaderName(String),
    /// What follows `json:` is no pointer.
    #[error("`{text}` is no JSON pointer: {source}")]
    Pointer {
        /// What was written.
        text: String,
        /// What is wrong with it.
        source: JsonPointerError,
    },
    /// `path:` without a name.
    #[error("`path:` needs the name of a parameter in the route's path, as in `path:order`")]
    PathName,
    /// An empty list.
    #[error("a key needs at least one source, such as `header:idempotency-key`")]
    Empty,
    /// Too long a list.
    #[error("a key is joined from at most 8 sources, this one from {0}")]
    TooMany(usize),
    /// The same source twice adds nothing and is surely a slip.
    #[error("`{0}` stands twice in the key")]
    Twice(KeySource),
}

impl KeySpec {
    /// The key joined from these sources, in this order; one source is a plain key.
    ///
    /// # Errors
    /// Where there is none, more than eight, or the same twice.
    pub fn new(sources: Vec<KeySource>) -> Result<Self, KeySpecError> {
        match sources.len() {
            0 => return Err(KeySpecError::Empty),
            1..=PARTS_MAX => {}
            many => return Err(KeySpecError::TooMany(many)),
        }
        for (at, source) in sources.iter().enumerate() {
            if sources[..at].contains(source) {
                return Err(KeySpecError::Twice(source.clone()));
            }
        }
        Ok(Self(sources.into()))
    }

    /// The sources, in the order of joining.
    #[must_use]
    pub fn sources(&self) -> &[KeySource] {
        &self.0
    }

    /// Whether the key can only be read once the body is there.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        self.0.iter().any(|source| matches!(source, KeySource::Json(_)))
    }

    /// Whether this is a natural key: no header, only what the request itself says.
    #[must_use]
    pub fn is_natural(&self) -> bool {
        !self.0.iter().any(|source| matches!(source, KeySource::Header(_)))
    }

    /// Reads the key; every source must yield a part.
    ///
    /// # Errors
    /// At the first source that is missing or malformed.
    pub fn read<'a>(&self, from: KeyFrom<'a>) -> Result<IdempotencyKey<'a>, KeyError> {
        if let [source] = &*self.0 {
            return source.read(from);
        }
        let parts = self.0.iter().map(|source| source.read(from)).collect::<Result<Vec<_>, _>>()?;
        Ok(IdempotencyKey::joined(&parts))
    }
}

impl KeySource {
    fn read<'a>(&self, from: KeyFrom<'a>) -> Result<IdempotencyKey<'a>, KeyError> {
        let malformed = |fault: KeyFault| KeyError::Malformed { place: self.clone(), fault };
        let missing = || KeyError::Missing { place: self.clone() };
        match self {
            Self::Header(name) => IdempotencyKey::from_header(from.headers, name),
            Self::Json(pointer) => {
                let text = pointer.read(from.body).map_err(malformed)?.ok_or_else(missing)?;
                IdempotencyKey::single(text).map_err(malformed)
            }
            Self::Path(name) => {
                let value = from.path.iter().find(|(known, _)| **known == **name).map(|(_, value)| *value);
                IdempotencyKey::single(value.ok_or_else(missing)?).map_err(malformed)
            }
        }
    }
}

impl FromStr for KeySource {
    type Err = KeySpecError;

    fn from_str(text: &str) -> Result<Self, KeySpecError> {
        let (kind, rest) = text.split_once(':').ok_or_else(|| KeySpecError::Unknown(text.to_owned()))?;
        match kind {
            "header" => rest.parse().map(Self::Header).map_err(|_| KeySpecError::HeaderName(rest.to_owned())),
            "json" => {
                rest.parse().map(Self::Json).map_err(|source| KeySpecError::Pointer { text: rest.to_owned(), source })
            }
            "path" if rest.is_empty() => Err(KeySpecError::PathName),
            "path" => Ok(Self::Path(rest.into())),
            _ => Err(KeySpecError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Json(pointer) => write!(f, "json:{pointer}"),
            Self::Path(name) => write!(f, "path:{name}"),
        }
    }
}

impl From<KeySource> for KeySpec {
    fn from(source: KeySource) -> Self {
        Self([source].into())
    }
}

impl FromStr for KeySpec {
    type Err = KeySpecError;

    /// Reads a single source; a list goes through [`KeySpec::new`].
    fn from_str(text: &str) -> Result<Self, KeySpecError> {
        Self::new(vec![text.parse()?])
    }
}

impl fmt::Display for KeySpec {
    /// The sources joined by `+`: part of a scope's contract in the ledger.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, source) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("+")?;
            }
            source.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(texts: &[&str]) -> KeySpec {
        KeySpec::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    #[test]
    fn sources_parse_and_print() {
        for text in ["header:idempotency-key", "json:/order/id", "path:order"] {
            assert_eq!(text.parse::<KeySource>().unwrap().to_string(), text);
        }
        assert_eq!(spec(&["path:order", "header:x-k"]).to_string(), "path:order+header:x-k");
        assert!(matches!("order".parse::<KeySource>(), Err(KeySpecError::Unknown(_))));
        assert!(matches!("query:a".parse::<KeySource>(), Err(KeySpecError::Unknown(_))));
        assert!(matches!("header:a b".parse::<KeySource>(), Err(KeySpecError::HeaderName(_))));
        assert!(matches!("header:".parse::<KeySource>(), Err(KeySpecError::HeaderName(_))));
        assert!(matches!("json:order".parse::<KeySource>(), Err(KeySpecError::Pointer { .. })));
        assert_eq!("path:".parse::<KeySource>(), Err(KeySpecError::PathName));
        assert_eq!(KeySpec::new(vec![]), Err(KeySpecError::Empty));
        let source: KeySource = "path:a".parse().unwrap();
        assert_eq!(KeySpec::new(vec![source.clone(); 2]), Err(KeySpecError::Twice(source)));
    }

    #[test]
    fn natural_keys_are_joined_in_order() {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", "u1".parse().unwrap());
        let from = KeyFrom { headers: &headers, body: br#"{"order_id":7}"#, path: &[("kind", "sms")] };
        let key = spec(&["header:x-user", "json:/order_id", "path:kind"]).read(from).unwrap();
        assert_eq!(key.as_str(), "2:u1,1:7,3:sms,");
        assert_eq!(key.part_count(), 3);
        assert_eq!(spec(&["path:kind"]).read(from).unwrap().as_str(), "sms");
        assert!(spec(&["json:/order_id", "path:kind"]).is_natural());
        assert!(!spec(&["header:x-user"]).reads_body());
    }

    #[test]
    fn a_missing_part_is_named() {
        let headers = HeaderMap::new();
        let from = KeyFrom { headers: &headers, body: b"{}", path: &[("a", "")] };
        let error = spec(&["json:/order_id", "path:a"]).read(from).unwrap_err();
        assert!(error.to_string().starts_with("no idempotency key in json:/order_id"), "{error}");
        let error = spec(&["path:a"]).read(from).unwrap_err();
        assert!(matches!(error, KeyError::Malformed { fault: KeyFault::Empty, .. }));
        assert!(matches!(spec(&["path:b"]).read(from).unwrap_err(), KeyError::Missing { .. }));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(header|json|path)?:?.{0,20}") {
            if let Ok(source) = text.parse::<KeySource>() {
                prop_assert_eq!(source.to_string().parse::<KeySource>().unwrap(), source);
            }
        }
    }
}
