//! Why a ledger could not do what it was asked.

use semel_core::scope::EffectId;

/// A failure of a ledger call. [`LedgerError::written`] says what it left behind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The store could not be reached, or was too busy to take the call. Nothing was written.
    #[error("the ledger cannot be reached: {0}")]
    Unreachable(String),
    /// Claims are paused (disk reserve, repair); settlements still work. Nothing was written.
    #[error("the ledger takes no new effects: {0}")]
    ClaimsPaused(String),
    /// The write was sent and its fate is not known: read the record again by its id.
    #[error("the ledger's write may or may not have happened: {0}")]
    Uncertain(String),
    /// The engine stopped after a failed write rather than guess what is on its disk.
    #[error("the ledger has stopped: {0}")]
    Stopped(String),
    /// The record is there but cannot be read back whole: its effect is unknown, not absent.
    #[error("the record of {id} is damaged: {what}")]
    Damaged {
        /// Whose.
        id: EffectId,
        /// What is wrong with it.
        what: String,
    },
    /// Too many callers wait for the conclusion of one effect.
    #[error("too many callers wait for this effect")]
    TooManyWaiters,
}

/// What a failed call left in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Surely nothing.
    Nothing,
    /// Nobody knows.
    Perhaps,
}

impl LedgerError {
    /// What the failed call left behind. A claim that left nothing was not made; one that perhaps was must be read
    /// again, or its effect counts as claimed.
    #[must_use]
    pub const fn written(&self) -> Written {
        match self {
            Self::Unreachable(_) | Self::ClaimsPaused(_) | Self::Damaged { .. } | Self::TooManyWaiters => {
                Written::Nothing
            }
            // An engine that stops may have the write on its disk: a failed flush is not an absent write.
            Self::Uncertain(_) | Self::Stopped(_) => Written::Perhaps,
        }
    }
}
