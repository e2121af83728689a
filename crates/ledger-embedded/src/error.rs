//! What can go wrong with a ledger folder, as data.

use std::{io, path::PathBuf, sync::Arc};

/// An error of the embedded store. Cloneable, because one failed commit answers every caller of its batch.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
    /// Another process (or another store in this one) has the folder open.
    #[error("{} is in use by another process: one ledger folder serves one process", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds files, but no ledger made them.
    #[error("{} holds files but is no ledger: choose an empty folder", path.display())]
    NotALedger {
        /// The folder.
        path: PathBuf,
    },
    /// Stored bytes are not what was written. The answer to "is this key there?" is unknown, never "no".
    #[error("damaged: {0}")]
    Damaged(Damage),
    /// A commit failed earlier: the store answers nothing until it is opened again.
    #[error("the ledger stopped: {reason}")]
    Stopped {
        /// The first failure.
        reason: Arc<str>,
    },
    /// No room for another log segment. Nothing of this batch was written.
    #[error("the disk is full: no room for the log")]
    DiskFull,
    /// The disk is nearly full: what is left is kept for settlements. Nothing was written.
    #[error("the disk is nearly full: what is left is kept for settlements")]
    DiskLow,
    /// A value is larger than a batch can hold.
    #[error("a value of {bytes} bytes is larger than the limit of {bytes_max}")]
    TooLarge {
        /// The size that was asked for.
        bytes: usize,
        /// The largest size.
        bytes_max: usize,
    },
}

/// Where stored bytes failed their check, and what that means.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} in {}", place.display())]
pub struct Damage {
    /// The file or folder.
    pub place: PathBuf,
    /// What is wrong, in words.
    pub what: String,
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.into(), source: Arc::new(source.into()) }
    }

    pub(crate) fn damaged(place: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Damaged(Damage { place: place.into(), what: what.into() })
    }

    /// Whether stored bytes are damaged, as opposed to out of reach.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_))
    }

    /// Whether the disk has no room (ENOSPC or quota).
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::DiskFull => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}
