//! Why a ledger cannot be opened or looked after, as data.

use serde::Deserialize;

/// An error of the NATS engine outside single calls.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The options contradict themselves or the URL cannot be read.
    #[error("{0}")]
    Options(String),
    /// No server could be reached, or the stream has no leader.
    #[error("the NATS servers cannot be reached: {0}")]
    Unreachable(String),
    /// There is no such stream, or it holds a ledger of another version.
    #[error("stream {stream:?} {what}")]
    NotMigrated {
        /// The stream.
        stream: String,
        /// What is wrong with it.
        what: String,
    },
    /// The servers may lose what they acknowledge.
    #[error("the NATS servers do not keep what they acknowledge: {0}")]
    NotDurable(String),
    /// The server answered with an error.
    #[error("the NATS server refused: {0}")]
    Refused(String),
}

/// An error in a JetStream answer (`server/errors.json` of nats-server lists the numbers).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct ApiError {
    /// As an HTTP status.
    #[serde(default)]
    pub(crate) code: u16,
    #[serde(default)]
    pub(crate) err_code: u32,
    #[serde(default)]
    pub(crate) description: String,
}

impl ApiError {
    pub(crate) const NO_MESSAGE: u32 = 10_037;
    pub(crate) const NO_STREAM: u32 = 10_059;
    pub(crate) const WRONG_SEQUENCE: u32 = 10_071;
    /// The same, while another publication on the subject is on its way.
    pub(crate) const WRONG_SEQUENCE_YET: u32 = 10_164;
    /// The leader changed within a batch, or its messages did not all arrive: nothing of it was stored.
    pub(crate) const BATCH_INCOMPLETE: u32 = 10_176;
    pub(crate) const BATCHES_TOO_MANY: u32 = 10_210;
    /// No room: memory, disk, or an account's or stream's limit.
    pub(crate) const NO_ROOM: [u32; 4] = [10_023, 10_028, 10_047, 10_077];
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.description, self.err_code)
    }
}

/// An error with its causes: the client library's own words leave them out.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
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
