//! Letting calls in where an upstream takes only so many at a time: after the ledger's look-up, so that a replay is never
//! shed, and before the claim, so that a refusal burns no key.

use std::time::Instant;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use semel_core::evidence::{AttemptEnd, Lost};
use semel_core::policy::admission::{Ended, Priority};
use semel_tower::policy::{InFlight, Rank, ReducedCapacity};

use crate::clock;
use crate::metrics::{RouteMetrics, Stage};
use crate::upstream::Upstream;

/// Has a call let in, which then has one place, however many attempts it takes; none where nothing bounds the upstream.
///
/// # Errors
/// Where there is no place for it in time.
pub async fn admit(
    upstream: &Upstream,
    priority: Priority,
    headers: &HeaderMap,
    deadline: Instant,
    metrics: &RouteMetrics,
) -> Result<Option<InFlight>, ReducedCapacity> {
    let Some(gate) = upstream.intake().gate() else { return Ok(None) };
    let rank = Rank::new(priority).deadline(deadline);
    let rank = match headers.get(AUTHORIZATION) {
        // All calls of one caller are shed before any of the next.
        Some(credential) => rank.tenant(credential),
        None => rank,
    };
    let began = clock::now();
    let admitted = gate.admit(rank).await;
    metrics.stage(Stage::Admission, clock::now().saturating_duration_since(began));
    admitted.map(Some)
}

/// A call ended so, after so many attempts: what it took says how busy the upstream is, unless it waited for a second
/// attempt or failed.
#[must_use]
pub fn measured(mut in_flight: InFlight, end: Option<&AttemptEnd>, attempts: u32) -> InFlight {
    in_flight.answered(match end {
        Some(AttemptEnd::Answered { status, .. }) if attempts == 1 => Ended::of_status(*status),
        Some(AttemptEnd::Lost(Lost::Timeout)) => Ended::TimedOut,
        _ => Ended::Cancelled,
    });
    in_flight
}
