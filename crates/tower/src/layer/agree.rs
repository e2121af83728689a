//! What a scope means, agreed with the ledger.

use semel_core::{
    contract::{ContractChange, ScopeContract},
    fingerprint::FingerprintVersion,
};
use semel_ledger::{Contract, Difference, LedgerError};

use super::IdempotencyLayer;

/// A scope whose keys cannot be trusted to mean what they meant.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// The ledger cannot say.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger was used with another meaning: every recorded key would be absent, or another effect's.
    #[error("the ledger remembers otherwise: {}; choose another scope name, or mend the settings", in_words(.0))]
    Changed(Vec<ContractChange>),
    /// The ledger was used by another version, whose contract cannot be read.
    #[error("the contract of scope {0:?} was written by another version")]
    Unreadable(Box<str>),
}

impl IdempotencyLayer {
    /// Compares what this layer means by its scope with what the ledger was used with, and keeps it if that is new.
    /// Call it once before serving: a changed key or principal would silently make every recorded key absent.
    ///
    /// # Errors
    /// [`ScopeError`] when it differs, and nothing is kept then.
    pub async fn agree(&self) -> Result<(), ScopeError> {
        let asked = self.contract();
        let contract = Contract { scope: asked.scope.as_str().into(), terms: asked.to_terms() };
        let Some(Difference { scope, held, .. }) = self.effects().ledger().agree(vec![contract], None).await?.pop()
        else {
            return Ok(());
        };
        let held = ScopeContract::from_terms(&held).ok_or(ScopeError::Unreadable(scope))?;
        Err(ScopeError::Changed(held.changes(&asked)))
    }

    fn contract(&self) -> ScopeContract {
        let keyed = &self.shared.keyed;
        ScopeContract {
            scope: keyed.policy.terms.scope.to_string(),
            key: keyed.key.to_string(),
            principal: keyed.principal.to_string(),
            fingerprint: FingerprintVersion::CURRENT.to_string(),
            upstream: keyed.policy.terms.upstream.to_string(),
            forward: "in process".into(),
        }
    }
}

fn in_words(changes: &[ContractChange]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
