//! The life of one command: decided, published, and if the stream did not take it, read and decided again.

use std::sync::Arc;
use std::time::Duration;

use semel_core::effect::{Command, Fence, Record, Reply};
use semel_core::scope::EffectId;
use semel_core::time::Timestamp;
use semel_ledger::{Applied, LedgerError, Seen, codec};

use crate::decide::{Decision, Verdict, Write, decide, record_of, take_back};
use crate::entry::{self, Entry, Held, OWN_NUMBER};
use crate::publish::{After, Publication, Published};
use crate::read::Pause;
use crate::shared::{CLOCK_STEPPED, Shared};

/// For how long a claim that nobody was told of is looked for: its lease ends about then.
const TAKE_BACK_WITHIN: Duration = Duration::from_secs(60);

/// What is known of what stands under an effect's subject.
enum Known {
    Nothing,
    Absent,
    Entry(Box<Entry>),
}

/// A command on its way.
struct Attempt<'a> {
    shared: &'a Shared,
    id: EffectId,
    /// Whoever lost an answer recognises its own publication by it.
    token: u64,
    /// Nobody waits any longer, on the local clock.
    until: Timestamp,
    /// What may have been stored already: the answer to it was lost.
    doubt: Option<(Reply, String)>,
    /// Why it is not done yet.
    why: String,
    pause: Pause,
}

impl Shared {
    /// Carries `command` out.
    ///
    /// # Errors
    /// See [`semel_ledger::Ledger::apply`].
    pub(crate) async fn carry_out(self: Arc<Self>, id: EffectId, command: Command) -> Result<Applied, LedgerError> {
        let _room = self.room().await?;
        let opens = matches!(command, Command::Claim(_) | Command::Reopen { .. });
        if opens && self.clock.stepped() {
            return Err(LedgerError::ClaimsPaused(CLOCK_STEPPED.to_owned()));
        }
        let token = getrandom::u64().map_err(|error| LedgerError::Unreachable(error.to_string()))?;
        // Whoever asked may go at any moment; a claim that nobody was told of would keep its key from everybody.
        let mut untold = opens.then(|| Untold { shared: Arc::clone(&self), id, token, on: None });
        let until = self.clock.local().plus(self.patience);
        let mut attempt =
            Attempt { shared: &self, id, token, until, doubt: None, why: String::new(), pause: Pause::default() };
        let done = attempt.run(&command, &mut untold).await;
        if let (Some(untold), Ok(_)) = (&mut untold, &done) {
            untold.on = None;
        }
        done
    }
}

impl Attempt<'_> {
    async fn run(&mut self, command: &Command, untold: &mut Option<Untold>) -> Result<Applied, LedgerError> {
        let mut known = match (self.shared.own.get(self.id), command) {
            (Some(entry), _) => Known::Entry(Box::new(entry)),
            (None, Command::Claim(_)) => Known::Absent,
            (None, _) => Known::Nothing,
        };
        loop {
            let (standing, is_read) = match std::mem::replace(&mut known, Known::Nothing) {
                Known::Nothing => (self.read().await?, true),
                Known::Absent => (None, false),
                Known::Entry(entry) => (Some(*entry), false),
            };
            let now = self.shared.clock.now();
            if let Some(done) = self.own_trace(standing.as_ref(), now) {
                return Ok(done);
            }
            let decision = match decide(self.id, command, standing.as_ref(), now) {
                Verdict::Answer(reply, record) if is_read => return Ok(applied(reply, record, now)),
                // What this process remembers is only good for what the stream compares.
                Verdict::Answer(..) => continue,
                Verdict::Write(decision) => decision,
            };
            if let Some(untold) = untold {
                untold.on = Some(decision.on);
            }
            let publications = self.shared.publications(self.id, self.token, &decision, now);
            match self.shared.publish(publications, self.shared.left(self.until)).await {
                Published::Stored(number) => return self.stored(*decision, number, now),
                Published::Behind(_) => "others were quicker again and again".clone_into(&mut self.why),
                Published::NotNow(why) => self.why = why,
                Published::Lost(why) => {
                    self.doubt = Some((decision.reply, why.clone()));
                    self.why = why;
                }
                Published::NoRoom(why) if untold.is_some() => return Err(self.fail(LedgerError::ClaimsPaused(why))),
                Published::NoRoom(why) => return Err(self.fail(LedgerError::Unreachable(why))),
                Published::Failed(error) => return Err(self.fail(error)),
            }
            if let (Some(untold), None) = (&mut *untold, &self.doubt) {
                // It surely was not stored.
                untold.on = None;
            }
            self.shared.own.forget(self.id);
            if self.shared.clock.local() >= self.until {
                return Err(self.fail(LedgerError::Unreachable(self.why.clone())));
            }
            self.shared.usable().map_err(|error| self.fail(error))?;
            self.pause.wait().await;
        }
    }

    async fn read(&self) -> Result<Option<Entry>, LedgerError> {
        self.shared.read(self.id, self.until).await.map_err(|error| self.fail(error))
    }

    /// What came of it when its answer was lost, if what stands is its own.
    fn own_trace(&self, standing: Option<&Entry>, now: Timestamp) -> Option<Applied> {
        let (reply, _) = self.doubt.as_ref()?;
        let entry = standing.filter(|entry| entry.token == self.token)?;
        // What the leader shows has been stored by a majority: it is as durable as an acknowledged one.
        let record = record_of(entry).filter(|record| record.compacted(now).is_some()).cloned().map(Box::new);
        self.shared.waiters.wake(self.id);
        Some(applied(*reply, record, now))
    }

    /// The stream took it.
    fn stored(&self, decision: Decision, number: u64, now: Timestamp) -> Result<Applied, LedgerError> {
        let Decision { write, reply, holds_until, .. } = decision;
        let record = match write {
            Write::Note(record) => return Ok(applied(reply, record, now)),
            Write::Release(_) => None,
            Write::Put(mut record) => {
                if record.fence == OWN_NUMBER {
                    record.fence = Fence(number);
                }
                Some(record)
            }
        };
        match &record {
            Some(record) if record.is_live() => {
                let held = Held::Record(record.clone());
                self.shared.own.put(self.id, Entry { revision: number, token: self.token, held });
            }
            _ => self.shared.own.forget(self.id),
        }
        self.shared.waiters.wake(self.id);
        if self.shared.clock.now() >= holds_until {
            return Err(LedgerError::Uncertain("it was opened anew, but too late".to_owned()));
        }
        Ok(applied(reply, record, now))
    }

    /// It came to nothing. Where it may have been stored all the same, that is what is told.
    fn fail(&self, error: LedgerError) -> LedgerError {
        match error {
            LedgerError::Unreachable(why) | LedgerError::ClaimsPaused(why) if self.doubt.is_some() => {
                LedgerError::Uncertain(why)
            }
            other => other,
        }
    }
}

fn applied(reply: Reply, record: Option<Box<Record>>, now: Timestamp) -> Applied {
    Applied { reply, seen: Seen { record: record.map(|record| *record), now } }
}

/// A claim on its way. If whoever asked for it goes away, or cannot be told, it is taken back: nothing was sent under it.
struct Untold {
    shared: Arc<Shared>,
    id: EffectId,
    token: u64,
    /// The number of the message that it was decided on, once it was published.
    on: Option<u64>,
}

impl Drop for Untold {
    fn drop(&mut self) {
        let (Some(on), Ok(runtime)) = (self.on, tokio::runtime::Handle::try_current()) else { return };
        let (shared, id, token) = (Arc::clone(&self.shared), self.id, self.token);
        runtime.spawn(async move { shared.look_after(id, token, on).await });
    }
}

impl Shared {
    /// Looks for a claim that nobody was told of, for as long as it may matter, and takes it back.
    async fn look_after(self: Arc<Self>, id: EffectId, token: u64, on: u64) {
        let until = self.clock.local().plus(TAKE_BACK_WITHIN);
        let mut pause = Duration::from_millis(100);
        // An outage is waited out: afterwards nobody else knows of it.
        while self.clock.local() < until && !matches!(self.usable(), Err(LedgerError::Stopped(_))) {
            let standing = self.read(id, until).await;
            let now = self.clock.now();
            match standing {
                Ok(standing) if standing.as_ref().map_or(0, |entry| entry.revision) == on => {
                    // It may still be on its way: the stream takes it as long as this stands.
                }
                Ok(Some(entry)) if entry.token == token => {
                    let Some(command) = take_back(&entry, token, now) else { return };
                    let Verdict::Write(decision) = decide(id, &command, Some(&entry), now) else { return };
                    let publications = self.publications(id, token, &decision, now);
                    if let Published::Stored(_) = self.publish(publications, self.left(until)).await {
                        self.own.forget(id);
                        self.waiters.wake(id);
                        return;
                    }
                }
                // Others have moved on: it can be taken no more.
                Ok(_) | Err(_) => return,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    fn publications(&self, id: EffectId, token: u64, decision: &Decision, now: Timestamp) -> Vec<Publication> {
        let names = &self.names;
        let mut publications = Vec::new();
        let encoded = match &decision.write {
            Write::Note(_) => None,
            Write::Put(record) => Some(entry::encode(record, token, now, self.part_bytes())),
            Write::Release(fence) => Some(entry::encode_release(*fence, token)),
        };
        let plain = |subject, payload, ttl| Publication { subject, payload, after: None, ttl, state: None };
        if let Some(line) = &decision.audit {
            let mut publication = plain(names.audit(token), codec::encode_audit(line).into(), None);
            if encoded.is_none() {
                publication.after = Some(After { number: decision.on, subject: Some(names.effect(id)) });
            }
            publications.push(publication);
        }
        let Some(encoded) = encoded else { return publications };
        for (number, part) in encoded.parts.into_iter().enumerate() {
            publications.push(plain(names.part(token, number), part, encoded.parts_ttl));
        }
        publications.push(Publication {
            subject: names.effect(id),
            payload: encoded.payload,
            after: Some(After { number: decision.on, subject: None }),
            ttl: encoded.ttl,
            state: Some(encoded.state),
        });
        publications
    }
}
