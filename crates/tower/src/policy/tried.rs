//! Which endpoints a call has tried.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use http::Request;
use semel_core::policy::balance::ENDPOINTS_MAX;

use super::classify::{ByResult, ByStatus};

/// The endpoints that attempts of one call have tried, in its request's extensions: put there by whoever may attempt it
/// again, and read by a [`Balance`](super::Balance) under it. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct Tried(Arc<[AtomicU64; ENDPOINTS_MAX / 64]>);

impl Tried {
    /// Whether the endpoint at this place was tried.
    #[must_use]
    pub fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word.load(Ordering::Relaxed) >> (index % 64) & 1 == 1)
    }

    /// The endpoint at this place is tried.
    pub fn insert(&self, index: usize) {
        if let Some(word) = self.0.get(index / 64) {
            word.fetch_or(1 << (index % 64), Ordering::Relaxed);
        }
    }
}

/// Knows from a request what has been tried.
pub trait TriedBy<Req> {
    /// What has been tried, if anybody keeps count.
    fn tried(&self, request: &Req) -> Option<Tried>;
}

impl<Req> TriedBy<Req> for ByResult {
    fn tried(&self, _request: &Req) -> Option<Tried> {
        None
    }
}

impl<B> TriedBy<Request<B>> for ByStatus {
    fn tried(&self, request: &Request<B>) -> Option<Tried> {
        request.extensions().get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_know_the_same() {
        let tried = Tried::default();
        [0, 63, 64, ENDPOINTS_MAX - 1, ENDPOINTS_MAX].into_iter().for_each(|index| tried.clone().insert(index));
        let known: Vec<_> = (0..ENDPOINTS_MAX + 9).filter(|index| tried.contains(*index)).collect();
        assert_eq!(known, [0, 63, 64, ENDPOINTS_MAX - 1], "of others there are none");
    }
}
