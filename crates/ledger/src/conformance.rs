//! What every engine must pass. An engine's test file is one [`Harness`] and one call of
//! [`conformance_suite!`](crate::conformance_suite):
//!
//! ```text
//! semel_ledger::conformance_suite!(MyHarness::new().await);
//! ```
//!
//! Cases use ids of their own, so a harness may keep one store for all of them.

mod cases;
mod differential;
mod import;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

pub use cases::*;
pub use differential::agrees_with_the_model;
pub use import::records_of_another_ledger_are_taken_over;

use crate::Ledger;

/// A store under test, as one or two gateways see it.
pub trait Harness: Send + Sync {
    /// The ledger as the first gateway sees it.
    fn ledger(&self) -> Arc<dyn Ledger>;

    /// The ledger as another gateway sees it; the same for engines that one process has to itself.
    fn other(&self) -> Arc<dyn Ledger>;

    /// Moves the store's clock forward.
    fn advance(&self, by: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Ends the gateways' processes without a goodbye and starts them again on what the store kept; their owner ids
    /// are new. Returns whether the store keeps anything (the model does not).
    fn crash(&mut self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

/// Writes one test for each case of the suite; the argument makes a fresh harness and may await.
#[macro_export]
macro_rules! conformance_suite {
    ($harness:expr) => {
        $crate::conformance_suite!(@cases $harness;
            absent_until_claimed,
            a_claim_excludes_others,
            a_settled_answer_comes_back_whole,
            a_large_binary_answer_comes_back_whole,
            a_consumed_effect_keeps_its_tombstone,
            a_released_key_is_usable_under_a_greater_fence,
            a_late_answer_settles_an_unknown_effect,
            only_retry_reopens_and_only_in_time,
            a_fenced_owner_changes_nothing,
            a_lapsed_lease_is_unknown,
            a_renewed_lease_holds,
            windows_end_in_a_marker_and_then_absence,
            live_lists_open_and_unknown_only,
            what_others_do_is_audited,
            contracts_are_compared,
            one_of_many_racing_claims_wins,
            one_of_racing_settlements_stands,
            a_waiter_is_woken_by_the_settlement,
            waiters_are_bounded_and_patient_within_reason,
            what_was_acknowledged_survives_a_crash,
            records_of_another_ledger_are_taken_over,
            agrees_with_the_model,
        );
    };
    (@cases $harness:expr; $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let mut harness = $harness;
                $crate::conformance::$case(&mut harness).await;
            }
        )+
    };
}
