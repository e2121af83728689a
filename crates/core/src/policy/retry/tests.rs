use super::*;
use crate::evidence::{AnswerRules, Lost};
use crate::policy::backoff::Jitter;
use crate::policy::budget::{QuotaBudget, WindowBudget};
use crate::policy::clock::some_instant;
use http::StatusCode;
use proptest::prelude::*;

const FOREVER: Duration = Duration::from_secs(3_600);

struct Call {
    retries: Retries,
    budget: RetryBudget,
    now: Instant,
    pushback: Pushback,
    is_forwarded: bool,
}

fn call(repeatable: Repeatable, deadline: Duration) -> Call {
    let now = some_instant();
    let deadline = Deadline::of_call(now, deadline, None);
    Call {
        retries: Retries::new(RetryPolicy::default(), repeatable, true, deadline),
        budget: RetryBudget::Window(WindowBudget::new(now, 1.0, 10)),
        now,
        pushback: Pushback::Unsaid,
        is_forwarded: false,
    }
}

impl Call {
    fn after(&mut self, end: AttemptEnd) -> RetryDecision {
        let verdict = AnswerRules::default().verdict(&end);
        let ended = Ended { end: &end, verdict, pushback: self.pushback, is_forwarded: self.is_forwarded };
        self.retries.after(ended, &self.budget, self.now, 0.5)
    }
}

fn answered(status: u16) -> AttemptEnd {
    AttemptEnd::Answered { status: StatusCode::from_u16(status).unwrap(), mark: None }
}

fn marked(status: u16, mark: EffectMark) -> AttemptEnd {
    AttemptEnd::Answered { status: StatusCode::from_u16(status).unwrap(), mark: Some(mark) }
}

fn repeat_ms(wait: u64) -> RetryDecision {
    RetryDecision::Repeat { wait: Duration::from_millis(wait) }
}

const STOP: fn(StopReason) -> RetryDecision = RetryDecision::Stop;

#[test]
fn a_post_is_not_repeated_by_default() {
    // The known trap: POST retried by default pays twice.
    for lost in [Lost::Timeout, Lost::ConnectionLost, Lost::Truncated, Lost::Malformed] {
        let mut call = call(Repeatable::IfNotExecuted, FOREVER);
        assert_eq!(call.after(AttemptEnd::Lost(lost)), STOP(StopReason::NotSafe));
    }
    for status in [408, 500, 502, 503, 504] {
        assert_eq!(call(Repeatable::IfNotExecuted, FOREVER).after(answered(status)), STOP(StopReason::NotSafe));
    }
}

#[test]
fn what_is_proven_not_executed_is_repeated() {
    let mut call = call(Repeatable::IfNotExecuted, FOREVER);
    assert_eq!(call.after(answered(429)), repeat_ms(500), "throttling waits longer");
    assert_eq!(call.retries.mark().to_string(), "2/3");
    assert_eq!(call.after(marked(503, EffectMark::None)), repeat_ms(50));
    assert_eq!(call.retries.mark().to_string(), "3/3");
    assert_eq!(call.after(answered(429)), STOP(StopReason::AttemptsSpent));
}

#[test]
fn a_guarded_or_safe_call_is_repeated_after_an_unknown_end() {
    let mut call = call(Repeatable::Always, FOREVER);
    assert_eq!(call.after(AttemptEnd::Lost(Lost::Timeout)), repeat_ms(25));
    assert_eq!(call.after(answered(502)), repeat_ms(50));
    assert_eq!(call.after(answered(500)), STOP(StopReason::AttemptsSpent));
}

#[test]
fn final_answers_are_final() {
    for status in [200, 202, 301, 400, 401, 403, 404, 409, 422] {
        assert_eq!(call(Repeatable::Always, FOREVER).after(answered(status)), STOP(StopReason::Answered), "{status}");
    }
    let committed = marked(500, EffectMark::Committed);
    assert_eq!(call(Repeatable::Always, FOREVER).after(committed), STOP(StopReason::Answered));
}

#[test]
fn a_guard_that_says_open_is_asked_again() {
    let mut call = call(Repeatable::IfNotExecuted, FOREVER);
    call.pushback = Pushback::After(Duration::from_secs(2));
    assert_eq!(call.after(marked(409, EffectMark::Open)), repeat_ms(2_000));
    assert_eq!(call.after(marked(409, EffectMark::Unknown)), STOP(StopReason::Answered));
}

#[test]
fn what_never_left_does_not_count() {
    let mut call = call(Repeatable::IfNotExecuted, Duration::from_millis(400));
    assert_eq!(call.after(AttemptEnd::NotSent(NotSent::HandedBack)), repeat_ms(0), "another connection, at once");
    assert_eq!(call.after(AttemptEnd::NotSent(NotSent::NoByteWritten)), repeat_ms(50));
    for wait in [100, 200] {
        assert_eq!(call.after(AttemptEnd::NotSent(NotSent::ConnectFailed)), repeat_ms(wait));
    }
    assert_eq!(call.retries.mark().to_string(), "1/3");
    assert_eq!(call.after(AttemptEnd::NotSent(NotSent::Dns)), STOP(StopReason::Deadline));
    let refused = AttemptEnd::NotSent(NotSent::RefusedHere);
    assert_eq!(call.after(refused), STOP(StopReason::RefusedHere));
}

#[test]
fn transparent_repeats_take_nothing_out_of_the_budget() {
    let mut call = call(Repeatable::IfNotExecuted, FOREVER);
    call.budget = RetryBudget::Window(WindowBudget::new(call.now, 0.0, 0));
    assert_eq!(call.after(AttemptEnd::NotSent(NotSent::ConnectFailed)), repeat_ms(25));
    assert_eq!(call.after(answered(429)), STOP(StopReason::BudgetSpent));
}

#[test]
fn retry_after_is_a_floor_and_never_outlasts_the_deadline() {
    let mut call = call(Repeatable::Always, Duration::from_secs(5));
    call.pushback = Pushback::After(Duration::from_secs(3));
    assert_eq!(call.after(answered(503)), repeat_ms(3_000));
    call.pushback = Pushback::After(Duration::from_secs(5));
    assert_eq!(call.after(answered(503)), STOP(StopReason::Deadline), "fails at once, without waiting");
    call.pushback = Pushback::Unsaid;
    call.now += Duration::from_secs(5);
    assert_eq!(call.after(answered(503)), STOP(StopReason::Deadline));
}

#[test]
fn who_asks_not_to_be_asked_again_is_not() {
    let mut call = call(Repeatable::Always, FOREVER);
    call.pushback = Pushback::Never;
    for status in [429, 500, 503] {
        assert_eq!(call.after(answered(status)), STOP(StopReason::PushedBack), "{status}");
    }
    assert_eq!(call.after(marked(503, EffectMark::None)), STOP(StopReason::PushedBack));
    assert_eq!(call.after(marked(409, EffectMark::Open)), STOP(StopReason::Answered));
    assert_eq!(call.after(answered(200)), STOP(StopReason::Answered));
}

#[test]
fn decorrelated_waits_grow_by_their_own_past_not_by_what_was_asked() {
    let mut call = call(Repeatable::Always, FOREVER);
    call.retries.policy.attempts_max = 9;
    call.retries.policy.backoff.jitter = Jitter::Decorrelated;
    assert_eq!(call.after(answered(500)), repeat_ms(100), "between 50 and 150");
    call.pushback = Pushback::After(Duration::from_secs(15));
    assert_eq!(call.after(answered(500)), repeat_ms(15_000));
    call.pushback = Pushback::Unsaid;
    let grown = RetryDecision::Repeat { wait: Duration::from_micros(287_500) };
    assert_eq!(call.after(answered(500)), grown, "175 ms before, so between 50 and 525");
}

#[test]
fn a_success_at_the_first_attempt_refills_the_quota() {
    let spend = |budget: &RetryBudget, now| while budget.try_reserve(now, RetryCause::Throttling) {};
    let mut first = call(Repeatable::Always, FOREVER);
    first.budget = RetryBudget::Quota(QuotaBudget::full());
    spend(&first.budget, first.now);
    for _ in 0..5 {
        assert_eq!(first.after(answered(200)), STOP(StopReason::Answered));
    }
    assert!(first.budget.try_reserve(first.now, RetryCause::Throttling), "five tokens came back");
    for _ in 0..5 {
        assert_eq!(first.after(answered(404)), STOP(StopReason::Answered));
    }
    assert_eq!(first.after(answered(429)), STOP(StopReason::BudgetSpent), "a refusal is no success");
    first.retries.attempt = 2;
    for _ in 0..5 {
        assert_eq!(first.after(answered(200)), STOP(StopReason::Answered));
    }
    assert_eq!(first.after(answered(429)), STOP(StopReason::BudgetSpent), "nor is a retry that worked");
}

#[test]
fn what_was_not_retried_stays_in_the_budget() {
    let mut call = call(Repeatable::Always, Duration::from_secs(1));
    call.budget = RetryBudget::Quota(QuotaBudget::full());
    call.pushback = Pushback::After(Duration::from_secs(2));
    for _ in 0..1_000 {
        assert_eq!(call.after(answered(503)), STOP(StopReason::Deadline));
    }
    call.pushback = Pushback::Unsaid;
    assert_eq!(call.after(answered(502)), repeat_ms(25));
}

#[test]
fn a_body_that_is_gone_is_not_repeated() {
    let mut call = call(Repeatable::Always, FOREVER);
    call.retries.is_replayable = false;
    assert_eq!(call.after(answered(503)), STOP(StopReason::BodyNotReplayable));
    assert_eq!(call.after(AttemptEnd::NotSent(NotSent::NoByteWritten)), STOP(StopReason::BodyNotReplayable));
    assert_eq!(call.after(AttemptEnd::NotSent(NotSent::HandedBack)), repeat_ms(0), "the request itself came back");
}

#[test]
fn nothing_is_repeated_under_a_half_sent_answer() {
    let mut call = call(Repeatable::Always, FOREVER);
    call.is_forwarded = true;
    assert_eq!(call.after(AttemptEnd::Lost(Lost::Truncated)), STOP(StopReason::Forwarded));
}

fn any_end() -> impl Strategy<Value = AttemptEnd> {
    let mark = prop_oneof![
        Just(None),
        Just(Some(EffectMark::None)),
        Just(Some(EffectMark::Committed)),
        Just(Some(EffectMark::Unknown)),
    ];
    prop_oneof![
        Just(AttemptEnd::NotSent(NotSent::ConnectFailed)),
        Just(AttemptEnd::NotSent(NotSent::HandedBack)),
        Just(AttemptEnd::NotSent(NotSent::RefusedHere)),
        Just(AttemptEnd::Lost(Lost::Timeout)),
        (200_u16..600, mark)
            .prop_map(|(status, mark)| AttemptEnd::Answered { status: StatusCode::from_u16(status).unwrap(), mark }),
    ]
}

proptest! {
    /// Whatever happens: attempts are bounded, time is, and nothing that may have been executed is repeated unless
    /// repeating is safe.
    #[test]
    fn no_history_breaks_the_rules(
        ends in proptest::collection::vec((any_end(), 0_u64..2_000, proptest::option::of(0_u64..8)), 1..40),
        always: bool,
        attempts_max in 1_u32..5,
    ) {
        let repeatable = if always { Repeatable::Always } else { Repeatable::IfNotExecuted };
        let mut call = call(repeatable, Duration::from_secs(10));
        call.retries.policy.attempts_max = attempts_max;
        let end_of_time = call.now + Duration::from_secs(10);
        let mut counted = 1;
        for (end, took_ms, pushback) in ends {
            call.now += Duration::from_millis(took_ms);
            call.pushback = pushback.map_or(Pushback::Unsaid, |seconds| Pushback::After(Duration::from_secs(seconds)));
            let verdict = AnswerRules::default().verdict(&end);
            let RetryDecision::Repeat { wait } = call.after(end) else { break };
            prop_assert!(always || verdict == Verdict::NotExecuted);
            prop_assert!(verdict != Verdict::Executed);
            prop_assert!(call.now + wait < end_of_time);
            prop_assert!(wait >= call.pushback.floor());
            counted += u32::from(!matches!(end, AttemptEnd::NotSent(_)));
            prop_assert!(counted <= attempts_max);
            prop_assert_eq!(call.retries.mark().n(), counted);
            call.now += wait;
        }
    }
}
