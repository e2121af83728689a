//! The one thread that writes: it decides what has queued up, commits it as one batch, and answers.

use super::{Machine, Shared, transaction::Batch, transaction::Transaction};
use crate::{
    error::Error,
    failpoint,
    log::{Log, Mark},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// An operation and where its answer goes.
pub(crate) struct Request<M: Machine> {
    pub(crate) operation: M::Operation,
    pub(crate) reply: oneshot::Sender<Result<M::Answer, Error>>,
}

/// Operations of one batch.
const BATCH_OPERATIONS: usize = 1024;
/// How long a batch waits for the keeper to make room in the log before it is refused.
const PATIENCE: Duration = Duration::from_secs(5);

type Decided<M> = (oneshot::Sender<Result<<M as Machine>::Answer, Error>>, Result<<M as Machine>::Answer, Error>);

pub(crate) struct Committer<M: Machine> {
    pub(crate) machine: M,
    pub(crate) shared: Arc<Shared>,
    pub(crate) log: Log,
    pub(crate) mark: Arc<Mark>,
    pub(crate) queue: mpsc::Receiver<Request<M>>,
    pub(crate) batch: Batch,
}

impl<M: Machine> Committer<M> {
    /// Runs until every sender is gone.
    pub(crate) fn run(mut self) {
        let mut waiting = Vec::with_capacity(BATCH_OPERATIONS);
        let mut decided: Vec<Decided<M>> = Vec::with_capacity(BATCH_OPERATIONS);
        while self.queue.blocking_recv_many(&mut waiting, BATCH_OPERATIONS) > 0 {
            let mut requests = waiting.drain(..).peekable();
            while requests.peek().is_some() {
                while let Some(request) = requests.next_if(|_| self.batch.buffer.len() < self.shared.limits.batch_bytes)
                {
                    let answer = self.decide(request.operation);
                    decided.push((request.reply, answer));
                }
                self.finish(&mut decided);
            }
        }
    }

    fn decide(&mut self, operation: M::Operation) -> Result<M::Answer, Error> {
        if let Some(error) = self.shared.stopped() {
            return Err(error);
        }
        let mut transaction = Transaction::begin(&self.shared, &mut self.batch);
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
    fn finish(&mut self, decided: &mut Vec<Decided<M>>) {
        if self.batch.buffer.is_empty() {
            self.batch.forget();
            answer_all(decided);
            return;
        }
        if let Err(error) = self.log.reserve(self.batch.buffer.len(), PATIENCE) {
            // Nothing was written: every operation of this batch simply did not happen.
            self.batch = Batch::default();
            refuse_all(decided, &error);
            return;
        }
        match self.commit() {
            Ok(()) => {
                answer_all(decided);
                self.shared.make_room();
            }
            Err(error) => {
                // Whether the batch will be found again is not known. Nobody may go on from here.
                tracing::error!(error = %error, "commit failed: the ledger stops");
                self.shared.stop(&error);
                let undone = decided.iter_mut().filter_map(|(_, answer)| answer.as_ref().ok());
                self.machine.commit_failed(undone);
                self.batch = Batch::default();
                refuse_all(decided, &error);
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
}

fn answer_all<A>(decided: &mut Vec<(oneshot::Sender<Result<A, Error>>, Result<A, Error>)>) {
    for (reply, answer) in decided.drain(..) {
        // The caller may have hung up; its effect is detached from it.
        let _ = reply.send(answer);
    }
}

fn refuse_all<A>(decided: &mut Vec<(oneshot::Sender<Result<A, Error>>, Result<A, Error>)>, error: &Error) {
    for (reply, answer) in decided.drain(..) {
        let _ = reply.send(answer.and_then(|_| Err(error.clone())));
    }
}
