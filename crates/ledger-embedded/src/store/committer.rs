//! The one thread that writes: it decides what has queued up, commits it as one batch, and answers.

use super::{
    Fate, Machine, Shared, StopOnPanic,
    reply::{self, Reply, Wakes},
    transaction::{Batch, Transaction},
};
use semel_ledger::failpoint;

use crate::{
    error::Error,
    log::{Log, Mark},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// An operation and where its answer goes.
pub(crate) struct Request<M: Machine> {
    pub(crate) operation: M::Operation,
    pub(crate) reply: Reply<Result<M::Answer, Error>>,
}

/// Operations of one batch.
const BATCH_OPERATIONS: usize = 1024;
/// How often the processor is given away in vain before a batch goes without the callers that may still come.
const GATHER_YIELDS: u32 = 4;
/// How long a batch waits for the keeper to make room in the log before it is refused.
const PATIENCE: Duration = Duration::from_secs(5);

/// An answer on its way, and where to.
type Decided<A> = (Reply<Result<A, Error>>, Result<A, Error>);

pub(crate) struct Committer<M: Machine> {
    pub(crate) machine: M,
    pub(crate) shared: Arc<Shared>,
    pub(crate) log: Log,
    pub(crate) mark: Arc<Mark>,
    pub(crate) queue: mpsc::Receiver<Request<M>>,
    pub(crate) batch: Batch,
    pub(crate) wakes: Wakes,
}

impl<M: Machine> Committer<M> {
    /// Runs until every sender is gone.
    pub(crate) fn run(mut self) {
        let _guard = StopOnPanic(self.shared.clone());
        let mut waiting = Vec::with_capacity(BATCH_OPERATIONS);
        let mut decided: Vec<Decided<M::Answer>> = Vec::with_capacity(BATCH_OPERATIONS);
        let mut answered = 0;
        while self.queue.blocking_recv_many(&mut waiting, BATCH_OPERATIONS) > 0 {
            self.gather(&mut waiting, answered);
            answered = waiting.len();
            let mut requests = waiting.drain(..).peekable();
            while requests.peek().is_some() {
                while let Some(request) = requests.next_if(|_| self.may_join(decided.len())) {
                    let answer = self.decide(request.operation);
                    decided.push((request.reply, answer));
                }
                self.finish(&mut decided);
            }
        }
    }

    /// Callers that were answered a moment ago are on their way with their next operation. Giving them the processor
    /// before the flush instead of after it makes one batch of what would be a small one and a large one.
    fn gather(&mut self, waiting: &mut Vec<Request<M>>, answered: usize) {
        let mut idle = 0;
        while waiting.len() < answered.min(BATCH_OPERATIONS) && idle < GATHER_YIELDS {
            std::thread::yield_now();
            let before = waiting.len();
            while let Ok(request) = self.queue.try_recv() {
                waiting.push(request);
            }
            idle = if waiting.len() == before { idle + 1 } else { 0 };
        }
    }

    /// Carries out what recovery asks for, in the calling thread.
    pub(crate) fn run_first(&mut self, operations: Vec<M::Operation>) -> Result<(), Error> {
        let mut decided = Vec::new();
        let mut operations = operations.into_iter().peekable();
        while operations.peek().is_some() {
            while let Some(operation) = operations.next_if(|_| self.may_join(decided.len())) {
                let answer = Ok(self.decide(operation)?);
                decided.push((reply::channel().0, answer));
            }
            self.finish(&mut decided);
            if let Some(error) = self.shared.stopped() {
                return Err(error);
            }
        }
        Ok(())
    }

    fn may_join(&self, operations: usize) -> bool {
        operations < BATCH_OPERATIONS && self.batch.buffer.len() < self.shared.limits.batch_bytes
    }

    fn decide(&mut self, operation: M::Operation) -> Result<M::Answer, Error> {
        if let Some(error) = self.shared.stopped() {
            return Err(error);
        }
        let mut transaction = Transaction::begin(&self.shared, &mut self.batch, self.log.last() + 1);
        let decision = self.machine.decide(operation, &mut transaction);
        let (bytes, bytes_max) = (transaction.len(), self.shared.limits.operation_bytes);
        let refusal = match decision {
            Ok(answer) if bytes <= bytes_max => return Ok(answer),
            Ok(_) => Error::TooLarge { bytes, bytes_max },
            Err(error) => error,
        };
        transaction.rollback();
        Err(refusal)
    }

    /// Commits the batch, if there is anything to commit, and answers everybody.
    fn finish(&mut self, decided: &mut Vec<Decided<M::Answer>>) {
        if self.batch.buffer.is_empty() {
            self.batch.forget();
            self.answer_all(decided);
            return;
        }
        if let Err(error) = self.log.reserve(self.batch.buffer.len(), PATIENCE) {
            // Every operation of this batch simply did not happen.
            self.machine.concluded(Fate::Discarded);
            self.batch = Batch::default();
            self.refuse_all(decided, &error);
            return;
        }
        match self.commit() {
            Ok(()) => {
                self.machine.concluded(Fate::Committed);
                self.answer_all(decided);
                self.shared.make_room();
            }
            Err(error) => {
                // Whether the batch will be found again is not known. Nobody may go on from here.
                tracing::error!(error = %error, "commit failed: the ledger stops");
                self.shared.stop(&error);
                self.machine.concluded(Fate::Uncertain);
                self.batch = Batch::default();
                self.refuse_all(decided, &self.shared.stopped().unwrap_or(error));
            }
        }
    }

    fn commit(&mut self) -> Result<(), Error> {
        let bytes = self.log.commit(&mut self.batch.buffer)?;
        let number = self.log.last();
        // Readers see the batch from here on: it is durable.
        self.batch.apply(&self.shared, &bytes, number);
        self.mark.advance(number)?;
        failpoint::hit("ack.before").map_err(|e| Error::io("acknowledge", "", e))
    }

    fn answer_all(&mut self, decided: &mut Vec<Decided<M::Answer>>) {
        for (reply, answer) in decided.drain(..) {
            reply.put(answer, &mut self.wakes);
        }
        self.wakes.send();
    }

    fn refuse_all(&mut self, decided: &mut Vec<Decided<M::Answer>>, error: &Error) {
        for (reply, answer) in decided.drain(..) {
            reply.put(answer.and_then(|_| Err(error.clone())), &mut self.wakes);
        }
        self.wakes.send();
    }
}
