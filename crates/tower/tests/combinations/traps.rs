//! The traps that others have stepped into, and the tests that fail where one of the policies does.

use std::path::Path;

/// A trap, and its tests: file in the workspace, and function.
const TRAPS: &[(&str, &[(&str, &str)])] = &[
    (
        "a POST is retried by default: double payout",
        &[
            ("core/src/policy/retry/tests.rs", "a_post_is_not_repeated_by_default"),
            ("tower/tests/policy/retry.rs", "a_post_is_repeated_only_where_that_is_safe"),
            ("tower/tests/combinations/ledger.rs", "what_nobody_knows_is_not_repeated"),
        ],
    ),
    (
        "retries multiply with every layer",
        &[
            ("core/src/policy/ownership.rs", "only_the_outermost_hop_retries"),
            ("tower/tests/policy/retry.rs", "only_the_outermost_retries"),
            ("gateway/tests/once/chains.rs", "retries_do_not_multiply_along_a_chain"),
            (
                "testkit/src/policy_simulation/tests.rs",
                "along_a_chain_only_the_first_hop_retries_and_nobody_works_for_who_has_gone",
            ),
        ],
    ),
    (
        "a budget is blind to retries in backoff",
        &[
            ("core/src/policy/budget.rs", "retries_in_backoff_are_in_the_budget"),
            ("tower/tests/combinations/repeats.rs", "retries_that_wait_are_in_the_budget"),
        ],
    ),
    (
        "the second attempt is told the time of the first",
        &[
            ("core/src/policy/deadline.rs", "every_attempt_gets_less"),
            ("tower/tests/policy/retry.rs", "the_deadline_bounds_the_whole_and_is_told_anew"),
            ("gateway/tests/once/attempts.rs", "the_time_that_is_left_is_told_anew_each_time"),
        ],
    ),
    (
        "a wait for Retry-After past the deadline",
        &[
            ("core/src/policy/retry/tests.rs", "retry_after_is_a_floor_and_never_outlasts_the_deadline"),
            ("tower/tests/combinations/time.rs", "a_retry_after_that_outlasts_the_deadline_fails_at_once"),
        ],
    ),
    (
        "a breaker stays half-open after its probe was cancelled",
        &[
            ("core/src/policy/breaker/tests.rs", "a_cancelled_probe_gives_its_place_to_the_next"),
            ("tower/tests/policy/gate.rs", "a_probe_that_is_cancelled_or_panics_is_not_the_last"),
        ],
    ),
    (
        "an ejection percentage does nothing on small pools",
        &[("core/src/policy/outlier.rs", "one_of_two_may_go_and_the_last_one_never")],
    ),
    (
        "a keep-alive connection closes under a request: \"closed before message completed\"",
        &[
            ("core/src/policy/retry/tests.rs", "what_never_left_does_not_count"),
            ("gateway/tests/once/attempts.rs", "a_keep_alive_connection_that_died_is_no_attempt"),
        ],
    ),
    (
        "a limit drifts up in steady overload",
        &[("core/src/policy/admission/adaptive/tests.rs", "steady_overload_does_not_drift_up")],
    ),
    (
        "one limit refuses and the global one is drained",
        &[("core/src/policy/rate_limit/tests.rs", "a_refusal_takes_from_no_limit")],
    ),
    (
        "a large body is silently not retried",
        &[("core/src/policy/retry/tests.rs", "a_body_that_is_gone_is_not_repeated")],
    ),
    (
        "the clock steps backwards",
        &[
            ("core/src/policy/window.rs", "a_clock_that_steps_back_is_survived"),
            ("core/src/policy/budget.rs", "a_clock_that_steps_back_grants_one_window_more_and_no_flood"),
            ("core/src/policy/outlier.rs", "a_clock_that_steps_back_prolongs_nothing"),
            ("core/src/policy/throttle.rs", "a_clock_that_steps_back_is_survived"),
            ("core/src/policy/breaker/tests.rs", "a_clock_that_steps_back_does_not_keep_it_shut"),
            ("core/src/policy/rate_limit/tests.rs", "a_jumping_clock_locks_nobody_out"),
            ("core/src/policy/admission/queue.rs", "the_clock_may_step_back"),
        ],
    ),
    (
        "failing fast attracts calls",
        &[
            ("core/src/policy/balance/tests.rs", "fast_failures_do_not_attract_calls"),
            ("testkit/src/policy_simulation/tests.rs", "failing_fast_attracts_no_calls"),
        ],
    ),
    (
        "an outage of all endpoints is prolonged by breakers that have doubled their openings",
        &[
            ("core/src/policy/balance/tests.rs", "an_outage_of_all_is_over_when_it_is_over"),
            ("testkit/src/policy_simulation/tests.rs", "when_all_are_down_a_probe_a_second_finds_them_up"),
        ],
    ),
    (
        "who matters most is sent away because a queue of others stands",
        &[
            ("core/src/policy/admission/queue.rs", "who_is_served_first_waits_as_if_the_others_were_not_there"),
            ("tower/tests/combinations/limits.rs", "who_matters_less_is_shed_first_while_the_limit_adapts"),
        ],
    ),
    (
        "an adaptive limit learns from answers alone, where all calls run out of time",
        &[
            ("core/src/policy/admission/adaptive/tests.rs", "calls_that_run_out_of_time_halve_the_limit"),
            ("tower/tests/combinations/limits.rs", "an_adaptive_limit_falls_where_calls_run_out_of_time"),
            ("core/src/policy/admission/adaptive/tests.rs", "callers_in_a_hurry_take_nobody_elses_places"),
            ("testkit/src/policy_simulation/tests.rs", "a_slow_upstream_does_what_it_can"),
        ],
    ),
];

/// A table that names tests which are gone would be worse than none.
#[test]
fn each_trap_has_its_tests() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (trap, tests) in TRAPS {
        assert!(!tests.is_empty(), "{trap}");
        for (file, test) in *tests {
            let source = std::fs::read_to_string(crates.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            let lines: Vec<_> = source.lines().collect();
            let place = lines
                .iter()
                .position(|line| line.trim_start().trim_start_matches("async ").starts_with(&format!("fn {test}(")));
            let place = place.unwrap_or_else(|| panic!("{trap}: {file} has no `{test}`"));
            assert!(lines[place - 1].contains("test"), "{trap}: `{test}` of {file} is no test");
        }
    }
}
