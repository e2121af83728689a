//! The oracle is shown histories that lie: every rule must notice the one lie it is there for.

use super::*;
use crate::http1::Message;
use crate::plan::Act;

const KEY: &str = "k1";
const HOLD: Rules = Rules { on_unknown: OnUnknown::Hold, attempts: 3 };
const RETRY: Rules = Rules { on_unknown: OnUnknown::Retry, attempts: 3 };

/// A history of one key in which everything is as it should be; `lie` is what a test makes of it.
struct Story {
    history: History,
    at_us: u64,
    execution: u64,
    arrivals: u32,
}

impl Story {
    fn new(rules: Rules) -> Self {
        let history = History { seed: 42, rules, calls: vec![], journal: vec![], outages: vec![], healed_us: u64::MAX };
        Self { history, at_us: 0, execution: 0, arrivals: 0 }
    }

    fn tick(&mut self) -> u64 {
        self.at_us += 10;
        self.at_us
    }

    fn arrives(mut self, act: Act) -> Self {
        let arrived = Entry::Arrived {
            at_us: self.tick(),
            key: KEY.to_owned(),
            arrival: self.arrivals,
            act,
            forwarded: Some("forwarded-k1".to_owned()),
            attempt: None,
            payload: "{}".to_owned(),
        };
        self.arrivals += 1;
        self.history.journal.push(arrived);
        if act.executes() { self.executes() } else { self }
    }

    fn executes(mut self) -> Self {
        self.execution += 1;
        let at_us = self.tick();
        let (key, payload, execution) = (KEY.to_owned(), "{}".to_owned(), self.execution);
        self.history.journal.push(Entry::Executed { at_us, key, execution, payload });
        self
    }

    /// A call around whatever `during` adds.
    fn call(mut self, during: impl FnOnce(Self) -> Self, end: End) -> Self {
        let sent_us = self.tick();
        self = during(self);
        let ended_us = self.tick();
        self.history.calls.push(Call { key: KEY.to_owned(), payload: "{}".to_owned(), sent_us, ended_us, end });
        self
    }

    fn later(self, end: End) -> Self {
        self.call(|story| story, end)
    }

    fn reused(mut self, end: End) -> Self {
        self = self.later(end);
        self.history.calls.last_mut().unwrap().payload = r#"{"other":1}"#.to_owned();
        self
    }

    fn outage(mut self) -> Self {
        let from_us = self.tick();
        let to_us = self.tick();
        self.history.outages.push(Outage { from_us, to_us });
        self
    }

    fn healed(mut self) -> Self {
        self.history.healed_us = self.tick();
        self
    }

    #[track_caller]
    fn kept(self) -> Self {
        self.history.assert_kept();
        self
    }

    #[track_caller]
    fn breaks(self, invariant: &str) {
        let violations = self.history.violations();
        assert!(violations.iter().any(|found| found.invariant == invariant), "{invariant} not among {violations:#?}");
        let told = std::panic::catch_unwind(|| self.history.assert_kept()).unwrap_err();
        let told = told.downcast_ref::<String>().unwrap();
        assert!(told.contains("seed 42") && told.contains("sent      {}"), "{told}");
    }
}

fn answer(status: u16, effect: &str, extra: &[(&str, &str)], body: &str) -> Message {
    let fixed = [
        ("semel-effect", effect),
        ("semel-effect-id", "ef_1"),
        ("idempotency-key", KEY),
        ("idempotency-window", "86400"),
    ];
    let headers = fixed.iter().chain(extra).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Message { start: format!("HTTP/1.1 {status} X"), headers: headers.collect(), body: body.as_bytes().to_vec() }
}

fn settled() -> Message {
    let extra = [("semel-source", "upstream"), ("location", "/effects/1"), ("content-type", "application/json")];
    answer(201, "committed", &extra, r#"{"key":"k1","execution":1}"#)
}

fn fresh() -> End {
    End::Answered(settled())
}

fn replayed() -> End {
    let mut message = settled();
    message.headers.push(("idempotent-replayed".to_owned(), "true".to_owned()));
    End::Answered(message)
}

fn problem(status: u16, kind: &str, effect: &str) -> End {
    let retry = ("x-should-retry", "false");
    let stripe = ("stripe-should-retry", "false");
    let json = ("content-type", "application/problem+json");
    let body = format!(r#"{{"type":"urn:semel:problem:{kind}"}}"#);
    End::Answered(answer(status, effect, &[("semel-source", "gateway"), retry, stripe, json], &body))
}

fn changed(end: End, change: impl FnOnce(&mut Message)) -> End {
    let End::Answered(mut message) = end else { panic!("no answer to change") };
    change(&mut message);
    End::Answered(message)
}

fn without(end: End, header: &str) -> End {
    changed(end, |message| message.headers.retain(|(name, _)| name != header))
}

fn with(end: End, header: &str, value: &str) -> End {
    let end = without(end, header);
    changed(end, |message| message.headers.push((header.to_owned(), value.to_owned())))
}

fn executed() -> Story {
    Story::new(HOLD).call(|story| story.arrives(Act::Execute), fresh()).later(replayed()).kept()
}

fn held() -> Story {
    let story = Story::new(HOLD).call(|s| s.arrives(Act::ResetAfter), problem(504, "outcome-unknown", "unknown"));
    story.later(problem(409, "outcome-unknown", "unknown")).kept()
}

#[test]
fn honest_histories_pass() {
    executed();
    held();
    Story::new(HOLD).later(End::NotSent("refused".into())).later(End::Unknown("hung up".into())).kept();
    let refused = problem(503, "upstream-unavailable", "none");
    let story = Story::new(HOLD)
        .call(|s| s.arrives(Act::RateLimited).arrives(Act::MarkNone).arrives(Act::RateLimited), refused)
        .call(|s| s.arrives(Act::Execute), fresh());
    story.kept();
    Story::new(HOLD).call(|s| s.arrives(Act::RateLimited).arrives(Act::Execute), fresh()).later(replayed()).kept();
    let crashed = Story::new(HOLD).call(|s| s.arrives(Act::Execute).outage(), End::Unknown("reset".into()));
    crashed.healed().later(problem(409, "outcome-unknown", "unknown")).kept();
    executed().reused(problem(422, "key-reused", "none")).kept();
    let retried = Story::new(RETRY).call(|s| s.arrives(Act::ResetAfter), End::Unknown("timeout".into()));
    retried.healed().later(fresh()).later(replayed()).kept();
}

#[test]
fn a_second_execution_is_seen() {
    executed().executes().breaks("executes_once");
    held().arrives(Act::FailBefore).breaks("never_sent_again_under_hold");
    // Even one that did not execute, because nobody could know that it would not.
    Story::new(HOLD)
        .call(|s| s.arrives(Act::ResetBefore).arrives(Act::Execute), fresh())
        .breaks("never_sent_again_under_hold");
}

#[test]
fn an_answer_that_is_not_replayed_is_seen() {
    executed().later(problem(409, "outcome-unknown", "unknown")).breaks("settled_is_replayed");
    executed().later(fresh()).breaks("settled_is_replayed");
    let unasked = || problem(503, "ledger-unavailable", "none");
    executed().later(unasked()).breaks("settled_is_replayed");
    executed().outage().later(unasked()).breaks("settled_is_replayed");
    executed().call(Story::outage, unasked()).kept();
    let other_body = changed(replayed(), |message| message.body.push(b' '));
    executed().later(other_body).breaks("settled_is_replayed");
    let other_status = changed(replayed(), |message| message.start = "HTTP/1.1 200 OK".to_owned());
    executed().later(other_status).breaks("settled_is_replayed");
    for header in ["location", "content-type"] {
        executed().later(without(replayed(), header)).breaks("settled_is_replayed");
    }
}

#[test]
fn a_lie_about_the_effect_is_seen() {
    Story::new(HOLD).later(fresh()).breaks("answers_are_true");
    executed().later(problem(504, "deadline-exceeded", "none")).breaks("answers_are_true");
    let none = problem(503, "upstream-unavailable", "none");
    Story::new(HOLD).call(|s| s.arrives(Act::ResetAfter), none).breaks("answers_are_true");
}

#[test]
fn another_call_s_answer_is_seen() {
    let other_key = changed(replayed(), |message| message.body = br#"{"key":"k2","execution":1}"#.to_vec());
    executed().later(other_key).breaks("answers_belong_to_their_call");
    let other_execution = changed(replayed(), |message| message.body = br#"{"key":"k1","execution":7}"#.to_vec());
    executed().later(other_execution).breaks("answers_belong_to_their_call");
    executed().reused(replayed()).breaks("answers_belong_to_their_call");
}

#[test]
fn an_unknown_without_a_fault_is_seen() {
    let unknown = || problem(504, "outcome-unknown", "unknown");
    Story::new(HOLD).call(|s| s.arrives(Act::Execute), unknown()).breaks("unknown_is_explained");
    Story::new(HOLD).outage().call(|s| s.arrives(Act::Execute), unknown()).breaks("unknown_is_explained");
    Story::new(HOLD).call(|s| s.arrives(Act::Execute).outage(), unknown()).kept();
}

#[test]
fn a_fault_free_key_that_does_not_settle_is_seen() {
    let busy = || problem(503, "ledger-unavailable", "none");
    Story::new(HOLD).later(busy()).breaks("faultless_keys_settle");
    let story = Story::new(HOLD).call(|s| s.arrives(Act::RateLimited), problem(503, "upstream-unavailable", "none"));
    story.breaks("refusals_that_heal_succeed");
    Story::new(HOLD).call(Story::outage, busy()).kept();
}

#[test]
fn a_key_that_stays_open_is_seen() {
    let open = || problem(409, "in-flight", "open");
    let stuck = || Story::new(HOLD).call(|s| s.arrives(Act::StallAfter), End::Unknown("timeout".into()));
    stuck().later(open()).healed().kept();
    stuck().healed().later(open()).breaks("nothing_stays_open");
}

#[test]
fn a_retry_that_never_succeeds_is_seen() {
    let unknown = || problem(409, "outcome-unknown", "unknown");
    let lost = || Story::new(RETRY).call(|s| s.arrives(Act::ResetAfter), unknown());
    lost().kept().healed().later(unknown()).breaks("retry_succeeds_in_the_end");
}

#[test]
fn a_reused_key_that_is_answered_is_seen() {
    executed().reused(problem(409, "in-flight", "open")).breaks("reuse_is_refused");
}

#[test]
fn ids_that_change_or_are_shared_are_seen() {
    executed().later(with(replayed(), "semel-effect-id", "ef_2")).breaks("one_effect_id");
    let forward = |forwarded: Option<&str>| {
        let mut story = held();
        let Entry::Arrived { forwarded: first, .. } = &mut story.history.journal[0] else { panic!() };
        *first = forwarded.map(str::to_owned);
        story
    };
    forward(None).breaks("one_forwarded_key");
    forward(Some("another")).arrives(Act::Execute).breaks("one_forwarded_key");
    let mut story = executed();
    let mut stranger = story.history.calls[0].clone();
    stranger.key = "k2".to_owned();
    story.history.calls.push(stranger);
    story.breaks("ids_are_of_one_key");
}

#[test]
fn a_missing_or_foreign_header_is_seen() {
    for header in ["semel-effect-id", "semel-source", "idempotency-key", "idempotency-window"] {
        executed().later(without(replayed(), header)).breaks("headers_are_whole");
    }
    executed().later(with(replayed(), "set-cookie", "session=1")).breaks("headers_are_whole");
    executed().later(with(replayed(), "idempotency-key", "k2")).breaks("headers_are_whole");
    let unknown = || problem(409, "outcome-unknown", "unknown");
    held().later(without(unknown(), "x-should-retry")).breaks("headers_are_whole");
    held().later(with(unknown(), "retry-after", "3600")).breaks("headers_are_whole");
}

#[test]
fn every_rule_has_its_lie() {
    let lies = include_str!("tests.rs");
    for (invariant, _) in INVARIANTS {
        assert!(lies.contains(&format!("breaks(\"{invariant}\")")), "{invariant} was never seen to fail");
    }
}
