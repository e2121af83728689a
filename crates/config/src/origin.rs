//! Where a value came from.

use std::fmt;
use std::sync::Arc;

/// Where a value came from. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// Follows from something else, which is named: `effect = "forward"`.
    Implied(&'static str),
    /// Top level or an `[upstream.x]`, `[admin]`, `[log]`, `[limits]` table.
    File {
        /// Where it stands.
        line: usize,
    },
    /// A `[profile.x]` table.
    Profile {
        /// The profile.
        name: Arc<str>,
        /// Where it stands.
        line: usize,
    },
    /// The `[[route]]` itself.
    Route {
        /// Where it stands.
        line: usize,
    },
}

impl Origin {
    /// The line in the file, where there is one.
    #[must_use]
    pub const fn line(&self) -> Option<usize> {
        match self {
            Self::File { line } | Self::Profile { line, .. } | Self::Route { line } => Some(*line),
            Self::Default | Self::Implied(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Implied(by) => write!(f, "from {by}"),
            Self::File { line } => write!(f, "line {line}"),
            Self::Profile { name, line } => write!(f, "profile {name}, line {line}"),
            Self::Route { line } => write!(f, "route, line {line}"),
        }
    }
}

/// One effective value as a person reads it, with its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The dotted key as it would stand in the file: `timeout.total`.
    pub key: &'static str,
    /// The value in the file's own syntax.
    pub value: serde_json::Value,
    /// Where it came from.
    pub origin: Origin,
}
