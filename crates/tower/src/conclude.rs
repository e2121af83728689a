//! Writing down what the attempts came to.

use std::time::Duration;

use semel_core::{
    answer::{StoredAnswer, Tombstone},
    effect::{Authority, Command, Fence, Outcome, Phase, Refusal, Reply, UnknownReason},
    evidence::{AttemptEnd, Lost, Verdict},
};
use semel_ledger::{Applied, LedgerError, Seen};

use crate::{
    Ack, Body, Conclusion, EffectPolicy, Execute, Execution, UpstreamAnswer,
    call::{Call, answered_by},
    clock,
};

/// First wait before a conclusion is written again; doubled each time up to a second.
const REWRITE_AFTER: Duration = Duration::from_millis(20);

/// What became of writing a conclusion down.
pub(crate) enum Settled {
    /// This is what the call came to.
    Concluded(Conclusion),
    /// Somebody else concluded the effect first, and this stands.
    Otherwise(Seen),
    /// The caller has its answer already.
    Told,
}

impl<E: Execute> Call<E> {
    pub(crate) async fn conclude(&mut self, fence: Fence, execution: Execution) -> Settled {
        let Execution { tally, end, attempts, answer } = execution;
        match (tally.verdict(), answer) {
            (Verdict::Executed, Some(answer)) => self.settle(fence, answer, attempts).await,
            (Verdict::NotExecuted, answer) => self.release(fence, answer, end).await,
            // Executed without an answer cannot be: only an answer says so. It counts as what it is, not known.
            (Verdict::Unknown | Verdict::Executed, answer) => {
                let command = Command::GiveUp { fence, reason: reason(end), attempts };
                match self.write(command).await {
                    Ok(applied) if is_executed(&applied.seen) => Settled::Otherwise(applied.seen),
                    // If it cannot be written, the lease lapses and says the same.
                    _ => Settled::Concluded(Conclusion::Unknown { answer }),
                }
            }
        }
    }

    async fn settle(&mut self, fence: Fence, answer: UpstreamAnswer, attempts: u32) -> Settled {
        let outcome = outcome_of(&answer, &self.policy);
        let keeps_answer = matches!(outcome, Outcome::Settled(_));
        let command = Command::Settle { fence, outcome, by: Authority::Owner, attempts };
        // An answer that is not kept is all the caller will ever see of it: its tombstone comes first in any case.
        if self.policy.ack == Ack::Early && keeps_answer {
            self.tell(Conclusion::Executed(answer));
            // If it cannot be written, the lease lapses, and duplicates are told that nobody knows.
            let _ = self.write(command).await;
            return Settled::Told;
        }
        match self.write(command).await {
            Ok(Applied { reply: Reply::Applied | Reply::Unchanged, .. }) => {
                Settled::Concluded(Conclusion::Executed(answer))
            }
            // Taken over or released by somebody who knew better; this answer is not the recorded one.
            Ok(Applied { reply: Reply::Refused(Refusal::Fenced | Refusal::Absent), seen }) if !is_executed(&seen) => {
                Settled::Concluded(Conclusion::Unknown { answer: Some(answer) })
            }
            Ok(Applied { seen, .. }) => Settled::Otherwise(seen),
            // Executed, but nothing says so: the unrecorded answer must not be the only trace of it.
            Err(_) => Settled::Concluded(Conclusion::Unknown { answer: None }),
        }
    }

    async fn release(&mut self, fence: Fence, answer: Option<UpstreamAnswer>, end: Option<AttemptEnd>) -> Settled {
        match self.write(Command::Release { fence, by: Authority::Owner }).await {
            Ok(applied) if is_executed(&applied.seen) => Settled::Otherwise(applied.seen),
            // Lapsed meanwhile, so it is unknown to the ledger and only somebody who knows may free it.
            Ok(Applied { reply: Reply::Refused(Refusal::NotFrom(_) | Refusal::WasUnknown), .. }) => {
                Settled::Concluded(Conclusion::Unknown { answer })
            }
            // Not executed stays true if the release could not be written.
            Ok(_) | Err(_) => Settled::Concluded(Conclusion::NotExecuted { answer, end }),
        }
    }

    /// Writes a conclusion, again while the ledger cannot be reached, for as long as the policy says. Conclusions are
    /// idempotent, so one whose fate is uncertain is simply written again.
    async fn write(&self, command: Command) -> Result<Applied, LedgerError> {
        let until = clock::now() + self.policy.settle_within;
        let mut wait = REWRITE_AFTER;
        loop {
            let applying = self.inner.ledger.apply(self.request.id, command.clone());
            match answered_by(until, applying).await {
                Err(error @ (LedgerError::Unreachable(_) | LedgerError::Uncertain(_))) => {
                    if clock::now() + wait >= until {
                        return self.lost(error);
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(1));
                }
                Err(error) => return self.lost(error),
                Ok(applied) => return Ok(applied),
            }
        }
    }

    fn lost(&self, error: LedgerError) -> Result<Applied, LedgerError> {
        tracing::error!(effect = %self.request.id, %error, "a conclusion could not be written; the effect stays unknown");
        Err(error)
    }
}

/// Whether somebody else (the upstream by its token, an operator) settled the effect meanwhile, whatever the attempts
/// proved: then that is the answer.
fn is_executed(seen: &Seen) -> bool {
    matches!(seen.phase(), Phase::Settled | Phase::Consumed)
}

/// What the ledger keeps of an answer.
pub(crate) fn outcome_of(answer: &UpstreamAnswer, policy: &EffectPolicy) -> Outcome {
    let headers = policy.keep_headers.filter(&answer.headers);
    match &answer.body {
        Body::Whole(body) => {
            let stored = StoredAnswer { status: answer.status, headers, body: body.clone() };
            if policy.keep_bodies { Outcome::Settled(stored) } else { Outcome::Consumed(stored.into_tombstone()) }
        }
        Body::Streaming(_) => Outcome::Consumed(Tombstone { status: answer.status, headers, body_digest: None }),
    }
}

fn reason(end: Option<AttemptEnd>) -> UnknownReason {
    match end {
        Some(AttemptEnd::Lost(Lost::Timeout)) => UnknownReason::Timeout,
        Some(AttemptEnd::Lost(Lost::ConnectionLost)) => UnknownReason::ConnectionLost,
        Some(AttemptEnd::Lost(Lost::Truncated)) => UnknownReason::Truncated,
        Some(AttemptEnd::Lost(Lost::Malformed)) => UnknownReason::Malformed,
        Some(AttemptEnd::Answered { mark: Some(_), .. }) => UnknownReason::Marked,
        Some(AttemptEnd::Answered { mark: None, .. }) => UnknownReason::Status,
        Some(AttemptEnd::NotSent(_)) | None => UnknownReason::Abandoned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_reason() {
        assert_eq!(reason(Some(AttemptEnd::Lost(Lost::Truncated))), UnknownReason::Truncated);
        assert_eq!(reason(None), UnknownReason::Abandoned);
    }
}
