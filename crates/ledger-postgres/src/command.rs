//! A command on its way through a lane.

use std::time::Duration;

use semel_core::effect::{Authority, Command, Outcome, Record, Reply};
use semel_core::scope::EffectId;
use semel_core::time::Timestamp;
use semel_ledger::{Applied, LedgerError, Seen};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::decide::Decision;

/// A command that somebody waits for, and where it stands.
#[derive(Debug)]
pub(crate) struct Apply {
    pub(crate) id: EffectId,
    pub(crate) command: Command,
    /// A random number that the claim's row carries: who lost the answer recognises its own claim by it.
    pub(crate) token: i64,
    pub(crate) stage: Stage,
    /// Whether it may have been carried out already: the answer to it was lost.
    pub(crate) doubt: bool,
    /// Nobody waits any more: a claim that was made all the same is taken back.
    pub(crate) take_back: bool,
    /// How often circumstances stood in its way.
    pub(crate) tries: u32,
    /// When it came, on this process's clock.
    pub(crate) since: Timestamp,
    reply: Option<oneshot::Sender<Result<Applied, LedgerError>>>,
    room: Option<OwnedSemaphorePermit>,
}

/// What its lane does with it next.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Let the database decide: the claim of a key that is absent, the settlement of an open effect by its owner.
    Call,
    /// Read what stands.
    Load,
    /// Write what was decided on it.
    Write(Box<Decision>),
    /// It was answered.
    Done,
}

/// How often circumstances may stand in the way of a command.
const TRIES_MAX: u32 = 64;

impl Apply {
    pub(crate) fn new(
        id: EffectId,
        command: Command,
        token: i64,
        since: Timestamp,
        reply: oneshot::Sender<Result<Applied, LedgerError>>,
        room: OwnedSemaphorePermit,
    ) -> Self {
        let stage = first_stage(&command);
        let (reply, room) = (Some(reply), Some(room));
        Self { id, command, token, stage, doubt: false, take_back: false, tries: 0, since, reply, room }
    }

    /// Bytes that it sends.
    pub(crate) fn weight(&self) -> usize {
        match &self.command {
            Command::Settle { outcome: Outcome::Settled(answer), .. } => 512 + answer.body.len(),
            _ => 512,
        }
    }

    /// It was sent, and the answer is lost: it starts again, and looks for its own traces.
    pub(crate) fn lose(&mut self) {
        match self.stage {
            Stage::Load | Stage::Done => {}
            Stage::Call | Stage::Write(_) => {
                self.doubt = true;
                self.stage = if self.take_back { Stage::Load } else { first_stage(&self.command) };
            }
        }
    }

    /// Something stood in its way, which is not its fault. Gives it up after too many times.
    pub(crate) fn hinder(&mut self, why: &str) {
        self.tries += 1;
        if self.tries > TRIES_MAX {
            self.fail(LedgerError::Unreachable(why.to_owned()));
        }
    }

    /// Answers. Returns whether somebody was there to hear it.
    pub(crate) fn answer(&mut self, reply: Reply, record: Option<Record>, now: Timestamp) -> bool {
        self.tell(Ok(Applied { reply, seen: Seen { record, now } }))
    }

    /// It came to nothing. Where it may have been carried out before, that is what is told.
    pub(crate) fn fail(&mut self, error: LedgerError) {
        let error = match error {
            LedgerError::Unreachable(why) | LedgerError::ClaimsPaused(why) if self.doubt => LedgerError::Uncertain(why),
            other => other,
        };
        self.tell(Err(error));
    }

    fn tell(&mut self, told: Result<Applied, LedgerError>) -> bool {
        self.stage = Stage::Done;
        self.room = None;
        self.reply.take().is_some_and(|reply| reply.send(told).is_ok())
    }

    /// Whether it is a claim: something is sent once it is made.
    pub(crate) fn is_claim(&self) -> bool {
        matches!(self.command, Command::Claim(_) | Command::Reopen { .. })
    }

    /// Looks at the time, this process's `now`; `sent` says that it is with the database at this moment. Whoever waited
    /// longer than `patience` is told. A claim that may have been made then stays behind to be taken back, for as long
    /// as that may matter. Returns whether there is anything left to do.
    pub(crate) fn expire(&mut self, now: Timestamp, patience: Duration, sent: bool) -> bool {
        let waited = now.since(self.since);
        let Some(reply) = &self.reply else {
            return sent || (self.take_back && waited < TAKE_BACK_WITHIN);
        };
        let perhaps = self.doubt || (sent && !matches!(self.stage, Stage::Load));
        if waited < patience && (sent || perhaps || !reply.is_closed()) {
            return true;
        }
        let why = "it did not answer in time".to_owned();
        let error = if perhaps { LedgerError::Uncertain(why) } else { LedgerError::Unreachable(why) };
        if let Some(reply) = self.reply.take() {
            // Whoever is gone need not be told.
            let _ = reply.send(Err(error));
        }
        self.room = None;
        self.take_back = perhaps && self.is_claim();
        if !sent {
            self.stage = Stage::Load;
        }
        sent || self.take_back
    }

    /// A claim was made, and whoever asked for it has gone: nothing was sent under it, so it can be released.
    pub(crate) fn abandon(&mut self) {
        self.take_back = true;
        self.stage = Stage::Load;
    }
}

/// For how long a claim that nobody was told of is looked for: its lease ends about then.
const TAKE_BACK_WITHIN: Duration = Duration::from_secs(60);

fn first_stage(command: &Command) -> Stage {
    match command {
        Command::Claim(_) | Command::Settle { by: Authority::Owner, .. } => Stage::Call,
        _ => Stage::Load,
    }
}
