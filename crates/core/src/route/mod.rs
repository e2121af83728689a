//! Which route a request takes. Pure: patterns are compiled once, a look-up allocates nothing but captured parameters.
//!
//! # The published rule
//!
//! A request takes the most specific pattern that matches it. Order in the file never matters:
//!
//! 1. **Host**: an exact name beats `*.suffix` (the longer suffix first), which beats no host.
//! 2. **Path**, segment by segment from the left: literal text beats `{parameter}`, which beats `{*rest}`.
//! 3. **Method**: a named method beats the HEAD that every GET implies, which beats any method.
//! 4. **Headers**: more conditions beat fewer.
//!
//! Two patterns that can match one request and are equal by this rule are an error ([`Ambiguity`]), found at compile time.
//! A pattern whose method or headers do not fit is no match at all: the next one by the rule is tried.
//!
//! Paths are compared byte by byte after [`normalise`]: case matters, a trailing slash matters (`/a/` is not `/a`),
//! `{parameter}` is one whole non-empty segment, `{*rest}` is anything after its slash, even nothing (`/a/{*rest}` takes
//! `/a/` and `/a/b/c`, not `/a`). Host names are compared without case and port.

mod path;
mod pattern;
mod router;

pub use path::{PathError, normalise};
pub use pattern::{HeaderCondition, HostPattern, MethodSet, PathTemplate, Pattern, PatternError, Segment};
pub use router::{Ambiguity, Match, Miss, Params, Router};
