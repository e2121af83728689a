//! A claim's right to act, checked before every first byte.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use semel_core::{
    effect::{Command, Fence, Reply},
    scope::EffectId,
};
use semel_ledger::Ledger;
use tokio::time::Instant;

use crate::clock;

/// The lease of one claim, as its owner sees it.
pub struct Lease {
    ledger: Arc<dyn Ledger>,
    id: EffectId,
    fence: Fence,
    term: Duration,
    /// Counted from before the claim was sent, so it ends here before it ends in the store.
    until: Mutex<Instant>,
}

/// The claim does not stand any more, or nobody can say whether it does: nothing may be sent under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claim's lease is lost")]
pub struct LeaseLost;

impl Lease {
    pub(crate) fn new(
        ledger: Arc<dyn Ledger>,
        id: EffectId,
        fence: Fence,
        term: Duration,
        asked_at: Instant,
    ) -> Arc<Self> {
        Arc::new(Self { ledger, id, fence, term, until: Mutex::new(asked_at + term) })
    }

    /// Makes sure that the claim stands now, and renews it when less than half of its term is left. Returns until when
    /// it stands: no first byte may leave later without another check.
    ///
    /// # Errors
    /// [`LeaseLost`] when it does not stand, or the ledger cannot be asked in time.
    pub async fn check(&self) -> Result<Instant, LeaseLost> {
        let left = self.left();
        if left > self.term / 2 {
            return Ok(self.until());
        }
        // No longer than the lease runs: an answer after that would come too late.
        let renewed = tokio::time::timeout(left.max(self.term / 4), self.renew()).await;
        match renewed.unwrap_or(Err(RenewError::NotAsked)) {
            // A ledger that cannot be reached does not end a lease that still runs.
            Ok(()) | Err(RenewError::NotAsked) if self.left() > Duration::ZERO => Ok(self.until()),
            _ => Err(LeaseLost),
        }
    }

    /// Renews the lease again and again; completes only when it is lost.
    pub(crate) async fn keep(&self) -> LeaseLost {
        loop {
            tokio::time::sleep((self.left() / 2).max(Duration::from_millis(50))).await;
            if self.check().await.is_err() {
                return LeaseLost;
            }
        }
    }

    fn left(&self) -> Duration {
        self.until().saturating_duration_since(clock::now())
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn renew(&self) -> Result<(), RenewError> {
        let asked_at = clock::now();
        let command = Command::Renew { fence: self.fence, lease: self.term };
        let applied = self.ledger.apply(self.id, command).await.map_err(|_| RenewError::NotAsked)?;
        if applied.reply != Reply::Applied {
            return Err(RenewError::Lost);
        }
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = asked_at + self.term;
        Ok(())
    }
}

enum RenewError {
    NotAsked,
    Lost,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).field("fence", &self.fence).finish_non_exhaustive()
    }
}
