//! The real binary over real sockets, judged by the effect oracle.

mod chain;
mod chaos;
mod cluster;
mod copy;
mod disk;
mod flush;
mod life;
mod nats;
mod postgres;
mod prior_failures;
mod traffic;

use semel_testkit::client::End;
use semel_testkit::http1::Message;
use semel_testkit::oracle::Reading;
use semel_testkit::rig::Setup;

/// A rig of the binary under test.
fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_semel"))
}

#[track_caller]
fn answer(end: &End) -> &Message {
    match end {
        End::Answered(message) => message,
        other => panic!("no answer: {other:?}"),
    }
}

/// `(status, Semel-Effect or the kind of the gateway's problem, replayed)`: what most assertions are about.
#[track_caller]
fn gist(end: &End) -> (u16, String, bool) {
    let reading = Reading::of(end);
    let effect = reading.effect.map(|mark| mark.as_str().to_owned());
    (answer(end).status(), reading.problem.or(effect).unwrap_or_default(), reading.replayed)
}

/// Asserts the gist of an answer; shows the whole answer when it differs.
#[track_caller]
fn expect(end: &End, status: u16, word: &str, replayed: bool) {
    assert_eq!(gist(end), (status, word.to_owned(), replayed), "{}", Reading::of(end));
}
