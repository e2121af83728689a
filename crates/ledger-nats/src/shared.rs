//! What the callers and the tasks of one ledger share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use semel_core::scope::EffectId;
use semel_core::time::Timestamp;
use semel_ledger::{Health, LedgerError, Waiters};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::{StoreClock, TimeShift};
use crate::link::Link;
use crate::own::Own;
use crate::{Error, Options};

/// How long one request may take before it is asked again whether it was carried out.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Room that the headers and the frame of a message take at most.
const FRAME_BYTES: usize = 4096;
/// Pieces of an answer are no larger than this, whatever the server takes.
const PART_BYTES_MAX: usize = 512 * 1024;

/// The subjects of a ledger.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) stream: String,
}

impl Names {
    /// # Errors
    /// When it cannot be the name of a stream and a word of its subjects.
    pub(crate) fn new(stream: &str) -> Result<Self, Error> {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if stream.is_empty() || stream.len() > 32 || !stream.chars().all(fine) {
            let what = "a stream is named with at most 32 lower-case letters, digits, '_' and '-'";
            return Err(Error::Options(format!("{what}; {stream:?} is not")));
        }
        Ok(Self { stream: stream.to_owned() })
    }

    pub(crate) fn effect(&self, id: EffectId) -> String {
        format!("{}.effect.{id}", self.stream)
    }

    pub(crate) fn effects(&self) -> String {
        format!("{}.effect.*", self.stream)
    }

    /// Where the stream says that something was stored for an effect.
    pub(crate) fn told(&self, id: EffectId) -> String {
        format!("{}.told.{id}", self.stream)
    }

    pub(crate) fn part(&self, token: u64, number: usize) -> String {
        format!("{}.part.{token:016x}.{number}", self.stream)
    }

    pub(crate) fn audit(&self, token: u64) -> String {
        format!("{}.audit.{token:016x}", self.stream)
    }

    pub(crate) fn audits(&self) -> String {
        format!("{}.audit.*", self.stream)
    }

    pub(crate) fn contracts(&self) -> String {
        format!("{}.contracts", self.stream)
    }

    pub(crate) fn meta(&self) -> String {
        format!("{}.meta", self.stream)
    }

    pub(crate) fn api(&self, request: &str) -> String {
        format!("$JS.API.{request}.{}", self.stream)
    }
}

pub(crate) struct Shared {
    pub(crate) link: Link,
    pub(crate) names: Names,
    pub(crate) clock: StoreClock,
    pub(crate) patience: Duration,
    pub(crate) waiters: Waiters,
    pub(crate) own: Own,
    room: Arc<Semaphore>,
    /// The greatest number that the stream has acknowledged.
    acknowledged: AtomicU64,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    /// Since when nothing works, on this process's clock, and why.
    since: Option<(Timestamp, String)>,
    /// Why nothing is taken any more.
    stopped: Option<String>,
}

impl Shared {
    pub(crate) fn new(options: &Options, link: Link, names: Names, shift: TimeShift) -> Self {
        Self {
            link,
            names,
            clock: StoreClock::new(shift),
            patience: options.patience,
            waiters: Waiters::default(),
            own: Own::default(),
            room: Arc::new(Semaphore::new(options.queue_len.max(1))),
            acknowledged: AtomicU64::new(0),
            trouble: Mutex::default(),
        }
    }

    /// A place among the calls that are with the servers.
    ///
    /// # Errors
    /// When none becomes free in time, or it is not worth waiting.
    pub(crate) async fn room(&self) -> Result<OwnedSemaphorePermit, LedgerError> {
        self.usable()?;
        let busy = || LedgerError::Unreachable("too many calls wait for it".to_owned());
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
            return Ok(permit);
        }
        let permit = tokio::time::timeout(self.patience, Arc::clone(&self.room).acquire_owned()).await;
        permit.map_err(|_| busy())?.map_err(|_| busy())
    }

    /// # Errors
    /// When the engine has stopped, or nothing has worked for longer than anybody waits.
    pub(crate) fn usable(&self) -> Result<(), LedgerError> {
        let trouble = self.trouble();
        if let Some(why) = &trouble.stopped {
            return Err(LedgerError::Stopped(why.clone()));
        }
        match &trouble.since {
            Some((since, why)) if self.clock.local().since(*since) > self.patience => {
                Err(LedgerError::Unreachable(why.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Pieces that a message has room for.
    pub(crate) fn part_bytes(&self) -> usize {
        let payload_max = self.link.client.server_info().max_payload;
        payload_max.saturating_sub(FRAME_BYTES).clamp(FRAME_BYTES, PART_BYTES_MAX)
    }

    /// The greatest number acknowledged so far: whatever is published from now on gets a greater one.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// The stream gave `number` to what was published when `before` had been acknowledged.
    ///
    /// # Errors
    /// When it gave that number before: it has lost what it had acknowledged.
    pub(crate) fn acknowledge(&self, number: u64, before: u64) -> Result<(), LedgerError> {
        if number <= before {
            return Err(self.stop(number, before));
        }
        self.acknowledged.fetch_max(number, Ordering::SeqCst);
        self.trouble().since = None;
        Ok(())
    }

    /// The stream's last number is this, at a moment when `before` had been acknowledged.
    pub(crate) fn last_number(&self, number: u64, before: u64) {
        if number < before {
            let _ = self.stop(number, before);
        }
    }

    fn stop(&self, number: u64, before: u64) -> LedgerError {
        let why = format!("the stream lost what it had acknowledged: after message {before} it is at {number} again");
        tracing::error!("{why}");
        self.trouble().stopped = Some(why.clone());
        LedgerError::Stopped(why)
    }

    /// The store answered.
    pub(crate) fn works(&self) {
        self.trouble().since = None;
    }

    /// The store did not answer.
    pub(crate) fn fails(&self, why: &str) {
        let now = self.clock.local();
        let mut trouble = self.trouble();
        match &mut trouble.since {
            Some((_, words)) => why.clone_into(words),
            none => *none = Some((now, why.to_owned())),
        }
    }

    pub(crate) fn health(&self) -> Health {
        let trouble = self.trouble();
        if let Some(why) = &trouble.stopped {
            return Health::Stopped(why.clone());
        }
        match self.link.down().or_else(|| trouble.since.as_ref().map(|(_, why)| why.clone())) {
            Some(why) => Health::Unreachable(why),
            None if self.clock.stepped() => Health::ClaimsPaused(CLOCK_STEPPED.to_owned()),
            None => Health::Ready,
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        // Every section is one assignment.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why no claim is taken while the clock is not to be believed.
pub(crate) const CLOCK_STEPPED: &str =
    "the clock of the stream's leader has moved by more than an hour: the clocks of the servers disagree";
