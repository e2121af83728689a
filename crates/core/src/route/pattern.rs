//! What a route asks of a request.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use thiserror::Error;

use super::path::{PathError, normalise};

/// A set of requests: method and path always, host and headers where given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Which host; `None` is any.
    pub host: Option<HostPattern>,
    /// Which methods.
    pub methods: MethodSet,
    /// Which path.
    pub path: PathTemplate,
    /// Conditions that must all hold, sorted by name, each name once.
    pub headers: Vec<HeaderCondition>,
}

impl Pattern {
    /// Reads `POST /v1/payments`, `GET,HEAD /v1/{id}`, or `* /{*rest}`; no host, no header conditions.
    ///
    /// # Errors
    /// [`PatternError`] says what is wrong in words.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (methods, path) = text
            .trim()
            .split_once(char::is_whitespace)
            .ok_or_else(|| if text.trim().starts_with('/') { PatternError::NoMethod } else { PatternError::NoPath })?;
        Ok(Self {
            host: None,
            methods: MethodSet::parse(methods)?,
            path: PathTemplate::parse(path.trim())?,
            headers: Vec::new(),
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.methods)?;
        if let Some(host) = &self.host {
            write!(f, "{host}")?;
        }
        write!(f, "{}", self.path)?;
        for condition in &self.headers {
            write!(f, " [{condition}]")?;
        }
        Ok(())
    }
}

/// Why a pattern cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// `/path` alone.
    #[error("the method is missing: write \"POST /path\", or \"* /path\" for any method")]
    NoMethod,
    /// A method alone.
    #[error("the path is missing: write \"POST /path\"")]
    NoPath,
    /// Not one of the methods semel knows.
    #[error("{0:?} is not a method; known are GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, and * for any")]
    Method(String),
    /// The path would never match a request.
    #[error("no request can have this path: {0}")]
    Path(#[from] PathError),
    /// The path is not written in the spelling under which requests are matched.
    #[error("requests are matched as {0:?}: write it so")]
    Spelling(String),
    /// `{` or `}` not around a whole segment, or around something that is not a name.
    #[error("in {0:?}: a parameter is a whole segment, {{name}} or at the end {{*name}}, of letters, digits and _")]
    Parameter(String),
    /// `{*rest}` in the middle.
    #[error("{0:?} takes all that is left, so it must be the last segment")]
    RestNotLast(String),
    /// The same name twice.
    #[error("the parameter {0:?} stands twice")]
    DuplicateParameter(String),
    /// A host that is no name.
    #[error("{0:?} is not a host name, or *.name, without scheme and port")]
    Host(String),
}

/// A set of the methods of RFC 9110 and RFC 5789 (CONNECT excluded: semel is no tunnel).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MethodSet(u8);

/// In the order of the bits.
const METHODS: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
];

impl MethodSet {
    /// Any method, also ones nobody has heard of.
    pub const ANY: Self = Self(0xff);
    /// No method.
    pub const NONE: Self = Self(0);

    /// Reads `POST`, `GET,HEAD`, or `*`.
    ///
    /// # Errors
    /// [`PatternError::Method`] names the word that is no method (methods are case-sensitive, RFC 9110, 9.1).
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::ANY);
        }
        text.split(',').try_fold(Self::NONE, |set, word| {
            let bit = METHODS
                .iter()
                .position(|m| m.as_str() == word.trim())
                .ok_or_else(|| PatternError::Method(word.trim().to_owned()))?;
            Ok(Self(set.0 | 1 << bit))
        })
    }

    /// The set of one method; empty for an extension method.
    #[must_use]
    pub fn of(method: &Method) -> Self {
        let bit: u8 = match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::POST => 2,
            Method::PUT => 3,
            Method::PATCH => 4,
            Method::DELETE => 5,
            Method::OPTIONS => 6,
            Method::TRACE => 7,
            _ => return Self::NONE,
        };
        Self(1 << bit)
    }

    /// Whether every method is in it.
    #[must_use]
    pub const fn is_any(self) -> bool {
        self.0 == Self::ANY.0
    }

    /// Whether no method is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a method is in both.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Methods that are in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The methods in it, in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Method> {
        METHODS.into_iter().enumerate().filter(move |(bit, _)| self.0 & (1 << bit) != 0).map(|(_, m)| m)
    }

    /// How specifically this set names `method`: `None` when it does not match at all; smaller is more specific.
    pub(super) fn rank(self, method: &Method) -> Option<u8> {
        let one = Self::of(method);
        if self.is_any() {
            Some(2)
        } else if self.intersects(one) {
            Some(0)
        } else if *method == Method::HEAD && self.intersects(Self(1)) {
            Some(1)
        } else {
            None
        }
    }
}

impl fmt::Display for MethodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return f.write_str("*");
        }
        for (n, method) in self.iter().enumerate() {
            write!(f, "{}{method}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Debug for MethodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MethodSet({self})")
    }
}

/// `api.example.com`, or `*.example.com` for every name below it. Always lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This name only.
    Exact(String),
    /// Every name that ends in this suffix, which starts with a dot.
    Suffix(String),
}

impl HostPattern {
    /// Reads a host pattern.
    ///
    /// # Errors
    /// [`PatternError::Host`] for anything but a name, an IP address, or `*.name`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let bad = || PatternError::Host(text.to_owned());
        let lower = text.to_ascii_lowercase();
        let (name, suffix) = lower.strip_prefix("*.").map_or((lower.as_str(), false), |name| (name, true));
        let address = name.starts_with('[') && name.ends_with(']') && !suffix;
        let ok = |b: u8| {
            b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.' || (address && b":[]".contains(&b))
        };
        if name.is_empty() || !name.bytes().all(ok) || name.starts_with('.') || name.contains("..") {
            return Err(bad());
        }
        let name = name.trim_end_matches('.');
        Ok(if suffix { Self::Suffix(format!(".{name}")) } else { Self::Exact(name.to_owned()) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// A condition on one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderCondition {
    /// Which header.
    pub name: HeaderName,
    /// The exact and only value; `None`: the header must be there.
    pub value: Option<HeaderValue>,
}

impl HeaderCondition {
    pub(super) fn holds(&self, headers: &HeaderMap) -> bool {
        match &self.value {
            None => headers.contains_key(&self.name),
            // Exactly one: of a field sent twice with two values, two conditions that exclude each other would both hold.
            Some(want) => {
                let mut values = headers.get_all(&self.name).iter();
                values.next() == Some(want) && values.next().is_none()
            }
        }
    }
}

impl fmt::Display for HeaderCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            None => write!(f, "{}", self.name),
            Some(value) => write!(f, "{}={}", self.name, String::from_utf8_lossy(value.as_bytes())),
        }
    }
}

/// `/v1/orders/{id}`, `/files/{*rest}`: segments between slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    text: String,
    segments: Vec<Segment>,
}

/// One part of a path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This text. Empty only as the last one: a trailing slash.
    Literal(String),
    /// `{name}`: one whole, non-empty segment.
    Param(String),
    /// `{*name}`: all that is left, even nothing.
    Rest(String),
}

impl PathTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// [`PatternError`], also for templates no request could match.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if !text.starts_with('/') {
            return Err(PathError::NotAbsolute.into());
        }
        let mut segments = Vec::new();
        let mut literal = String::new();
        let parts: Vec<&str> = text[1..].split('/').collect();
        for (n, part) in parts.iter().enumerate() {
            literal.push('/');
            if part.contains(['{', '}']) {
                let segment = parameter(part)?;
                let name = match &segment {
                    Segment::Rest(_) if n + 1 != parts.len() => {
                        return Err(PatternError::RestNotLast((*part).to_owned()));
                    }
                    Segment::Param(name) | Segment::Rest(name) => name,
                    Segment::Literal(_) => unreachable!("`parameter` makes parameters"),
                };
                if segments.iter().any(|s| matches!(s, Segment::Param(other) if other == name)) {
                    return Err(PatternError::DuplicateParameter(name.clone()));
                }
                literal.push('x');
                segments.push(segment);
            } else {
                literal.push_str(part);
                segments.push(Segment::Literal((*part).to_owned()));
            }
        }
        let normal = normalise(&literal)?;
        if normal != literal {
            return Err(PatternError::Spelling(normal.into_owned()));
        }
        Ok(Self { text: text.to_owned(), segments })
    }

    /// The segments, in order. Never empty; `/` is one empty literal.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The names of the parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|s| match s {
            Segment::Literal(_) => None,
            Segment::Param(name) | Segment::Rest(name) => Some(name.as_str()),
        })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn parameter(part: &str) -> Result<Segment, PatternError> {
    let bad = || PatternError::Parameter(part.to_owned());
    let inner = part.strip_prefix('{').and_then(|p| p.strip_suffix('}')).ok_or_else(bad)?;
    let (name, rest) = inner.strip_prefix('*').map_or((inner, false), |name| (name, true));
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(bad());
    }
    Ok(if rest { Segment::Rest(name.to_owned()) } else { Segment::Param(name.to_owned()) })
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
