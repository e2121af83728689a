//! Attempts as the gateway makes them: until decided, under the lease, not past the deadline.

use std::{sync::Arc, time::Duration};

use semel_core::evidence::{AnswerRules, Verdict};
use semel_testkit::simulation::Life;
use semel_tower::{Claimed, Execute, Execution, Finding, ProbeTarget};

use crate::{history::now, upstream::Upstream};

const ATTEMPTS_MAX: u32 = 4;
const BACKOFF: Duration = Duration::from_millis(50);

pub(crate) struct Executor {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) life: Life,
    /// Whether an attempt may follow one of unknown outcome.
    pub(crate) repeats_unknown: bool,
    pub(crate) ignores_lease: bool,
}

impl Execute for Executor {
    async fn execute(&self, claimed: Claimed) -> Execution {
        let request = String::from_utf8_lossy(&claimed.message.body);
        let mut execution = Execution { tally: claimed.tally, end: None, attempts: 0, answer: None };
        while execution.attempts < ATTEMPTS_MAX
            && now() < claimed.deadline
            && (self.ignores_lease || claimed.lease.check().await.is_ok())
        {
            execution.attempts += 1;
            let attempt = self.upstream.attempt(claimed.id, claimed.fence.0, &request);
            let (end, answer) = self.life.bind(attempt).await;
            execution.tally = execution.tally.after(&end, &AnswerRules::default());
            execution.end = Some(end);
            execution.answer = answer;
            match execution.tally.verdict() {
                Verdict::Executed => break,
                Verdict::Unknown if !self.repeats_unknown => break,
                Verdict::Unknown | Verdict::NotExecuted => self.life.bind(tokio::time::sleep(BACKOFF)).await,
            }
        }
        execution
    }

    async fn probe(&self, target: ProbeTarget) -> Finding {
        self.life.bind(tokio::time::sleep(BACKOFF)).await;
        self.upstream.ask(target.id)
    }
}
