//! Policies in combination: what each of two does well alone can be wrong together.
//!
//! | | with | proven by |
//! |---|---|---|
//! | deadline | rate limit | `policy::policies::a_server_answers_what_its_policies_refuse` |
//! | | ledger | `ledger::an_effect_outlives_its_callers_deadline` |
//! | | admission | `policy::policies::who_has_gone_by_its_deadline_does_not_wait_for_a_place`, `limits::an_adaptive_limit_falls_where_calls_run_out_of_time` |
//! | | retry | `policy::retry::the_deadline_bounds_the_whole_and_is_told_anew`, `time::a_retry_after_that_outlasts_the_deadline_fails_at_once`, `time::a_retry_after_within_the_deadline_is_waited_out` |
//! | | hedge | `time::each_leg_of_a_hedge_is_told_what_is_left`, `time::no_hedge_begins_after_the_deadline` |
//! | | attempt timeout, breaker | `time::the_shorter_of_two_times_cuts_an_attempt_and_a_hurry_is_no_failure` |
//! | rate limit | ledger | `ledger::a_refused_call_burns_no_key_and_a_replay_counts` |
//! | | retry, hedge | `limits::a_call_costs_one_unit_however_often_it_is_attempted`, `limits::our_own_limit_is_not_asked_again` |
//! | | breaker, throttle | `limits::a_429_opens_no_breaker_and_feeds_the_throttle` |
//! | ledger | admission | `ledger::replays_are_never_shed_and_a_shed_call_burns_no_key` |
//! | | retry | `ledger::what_nobody_knows_is_not_repeated` |
//! | | hedge | `ledger::both_legs_of_a_hedge_carry_one_key` |
//! | | breaker, bulkhead | `layer::what_a_policy_refuses_leaves_the_key_usable`, `layer::a_refused_repeat_does_not_make_sure_that_nothing_happened` |
//! | admission | retry, hedge | `limits::a_call_has_one_place_however_often_it_is_attempted` |
//! | | breaker | `limits::quick_refusals_are_no_measure_of_an_adaptive_limit` |
//! | | priority | `limits::who_matters_less_is_shed_first_while_the_limit_adapts` |
//! | total timeout | retry | `policy::policies::retries_do_not_wait_past_the_total_timeout` |
//! | retry | budget | `repeats::retries_that_wait_are_in_the_budget`, `policy::retry::the_budget_bounds_all_calls_together` |
//! | | hedge | `policy::policies::retries_and_hedges_share_a_budget_in_which_a_call_counts_once`, `policy::hedge::under_a_retry_of_the_same_process_it_goes_on` |
//! | | attempt timeout | `policy::retry::each_attempt_has_its_timeout` |
//! | | throttle | `repeats::a_throttled_repeat_is_the_end` |
//! | | breaker | `policy::retry::a_refusal_of_our_own_is_not_retried_and_an_open_breaker_ends_retries` |
//! | | bulkhead | `repeats::a_failed_attempt_gives_its_place_back_before_the_wait`, `repeats::a_full_bulkhead_is_no_failure_and_is_not_asked_again` |
//! | | balance | `policy::balance::each_retry_goes_to_an_endpoint_that_was_not_tried` |
//! | | fault | `repeats::a_fault_on_purpose_is_repeated_out_of_the_budget` |
//! | hedge | budget | `policy::hedge::hedges_are_in_the_budget` |
//! | | throttle, breaker | `repeats::the_loser_of_a_hedge_is_no_failure`, `repeats::a_hedge_that_a_probing_breaker_refuses_does_not_end_the_call` |
//! | | bulkhead | `repeats::a_hedge_that_finds_no_place_does_not_end_the_call` |
//! | | balance | `policy::balance::a_hedge_goes_elsewhere` |
//! | attempt timeout | breaker, throttle, balance | `policy::gate::a_black_hole_is_found_out`, `policy::gate::a_throttle_knows_what_timed_out`, `policy::balance::a_black_hole_is_found_out` |
//! | throttle | breaker | `repeats::refusals_of_a_breaker_are_no_failures_of_the_service` |
//! | breaker | bulkhead | `repeats::a_full_bulkhead_is_no_failure_and_is_not_asked_again` |
//! | | fault | `policy::policies::what_is_rehearsed_is_seen_by_all_above` |
//!
//! `traps` lists the traps that the policies must not step into.

mod ledger;
mod limits;
mod repeats;
mod time;
mod traps;
mod upstream;
