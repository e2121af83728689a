//! Why a ledger cannot be opened or looked after, as data.

use std::error::Error as _;

/// An error of the PostgreSQL engine outside single calls.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The options contradict themselves or the URL cannot be read.
    #[error("{0}")]
    Options(String),
    /// No host could be reached, or none takes writes.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// The database has no ledger in this schema, or one of another version.
    #[error("schema {schema:?} {what}")]
    NotMigrated {
        /// The schema.
        schema: String,
        /// What is wrong with it.
        what: String,
    },
    /// The server may lose what it acknowledges.
    #[error("the database does not keep what it acknowledges: {0}")]
    NotDurable(String),
    /// The server answered with an error.
    #[error("the database refused: {0}")]
    Refused(String),
}

impl Error {
    pub(crate) fn of(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) if db.code().code() == "SM002" => Self::NotDurable(db.message().to_owned()),
            Some(db) => Self::Refused(db.to_string()),
            None => Self::Unreachable(in_words(error)),
        }
    }
}

/// An error with its causes: the client library's own words leave them out.
pub(crate) fn in_words(error: &tokio_postgres::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    words
}

/// What a failed statement says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The connection is gone, or what it said cannot be trusted: a write may or may not have been committed.
    Lost(String),
    /// The server does not take writes (any more): nothing was written, another server is to be looked for.
    Demoted(String),
    /// The server's clock is further on than this process believed.
    Late,
    /// Aborted by circumstances; the same statement may succeed now.
    Again(String),
    /// The partition of a settlement is missing.
    NoRoom,
    /// The disk is full.
    DiskFull(String),
    /// Anything else: nothing was written.
    Refused(String),
}

impl Failed {
    pub(crate) fn of(error: &tokio_postgres::Error) -> Self {
        let words = in_words(error);
        let Some(db) = error.as_db_error() else { return Self::Lost(words) };
        // An error aborts its transaction. What ends the connection may come after the commit, while it waits for a
        // standby: that commit stands.
        if !matches!(db.parsed_severity(), Some(tokio_postgres::error::Severity::Error)) {
            return Self::Lost(words);
        }
        match db.code().code() {
            "25006" => Self::Demoted(words),
            "23514" => Self::NoRoom,
            "SM001" => Self::Late,
            // Serialization, deadlock, lock and statement timeout, cancel.
            "40001" | "40P01" | "55P03" | "57014" => Self::Again(words),
            "53100" => Self::DiskFull(words),
            _ => Self::Refused(words),
        }
    }
}
