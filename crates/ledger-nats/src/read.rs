//! Reads from the stream's leader. A direct get may be answered by a replica that is behind, so none is used.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use semel_core::scope::EffectId;
use semel_core::time::Timestamp;
use semel_ledger::LedgerError;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use std::time::Duration;

use crate::entry::{self, Entry, Held};
use crate::error::ApiError;
use crate::link::ApiFailed;
use crate::publish::Published;
use crate::shared::{ANSWER_WITHIN, Names, Shared};

/// How long a read waits for its answer before it is asked again, the first time and at most.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_millis(250);
const LATER_ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A stored message.
#[derive(Debug, Deserialize)]
pub(crate) struct Message {
    pub(crate) seq: u64,
    #[serde(default, deserialize_with = "from_base64")]
    pub(crate) data: Bytes,
}

#[derive(Deserialize)]
struct Got {
    message: Message,
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(serde::de::Error::custom)
}

/// The last message under a subject.
///
/// # Errors
/// When the leader does not answer, or cannot read it.
pub(crate) async fn last(
    link: &crate::link::Link,
    names: &Names,
    subject: &str,
    within: Duration,
) -> Result<Option<Message>, ApiFailed> {
    get(link, names, &json!({ "last_by_subj": subject }), within).await
}

/// The first message under a subject with wildcards, from this number on.
///
/// # Errors
/// When the leader does not answer, or cannot read it.
pub(crate) async fn next(
    link: &crate::link::Link,
    names: &Names,
    subject: &str,
    from: u64,
) -> Result<Option<Message>, ApiFailed> {
    get(link, names, &json!({ "next_by_subj": subject, "seq": from.max(1) }), ANSWER_WITHIN).await
}

async fn get(
    link: &crate::link::Link,
    names: &Names,
    what: &serde_json::Value,
    within: Duration,
) -> Result<Option<Message>, ApiFailed> {
    match link.api::<Got>(names.api("STREAM.MSG.GET"), what.to_string().into(), within).await {
        Ok(got) => Ok(Some(got.message)),
        Err(ApiFailed::Refused(error)) if error.err_code == ApiError::NO_MESSAGE => Ok(None),
        Err(failed) => Err(failed),
    }
}

impl Shared {
    /// As [`Shared::read`], cheaper where nothing stands: most calls come with a new key.
    ///
    /// # Errors
    /// See [`Shared::read`].
    pub(crate) async fn look(&self, id: EffectId, until: Timestamp) -> Result<Option<Entry>, LedgerError> {
        match self.number_of(id, self.left(until)).await {
            Ok(Some(0)) => {
                self.works();
                Ok(None)
            }
            Err(Published::Failed(error @ LedgerError::Stopped(_))) => Err(error),
            // It is there, or it could not be found out: reading tells.
            _ => self.read(id, until).await,
        }
    }

    /// What stands under `id`, with its answer as long as that counts, asked for until `until` of the local clock.
    ///
    /// # Errors
    /// When the leader does not answer in time, or the record is damaged.
    pub(crate) async fn read(&self, id: EffectId, until: Timestamp) -> Result<Option<Entry>, LedgerError> {
        let mut pause = Pause::default();
        // While there is no leader nobody answers; a question that is asked again costs little.
        let mut within = FIRST_ANSWER_WITHIN;
        loop {
            match self.read_once(id, within.min(self.left(until))).await {
                Ok(entry) => {
                    self.works();
                    return entry;
                }
                Err(failed) => {
                    let why = failed.words();
                    self.fails(&why);
                    if self.clock.local() >= until {
                        return Err(LedgerError::Unreachable(why));
                    }
                }
            }
            pause.wait().await;
            within = (within * 2).min(LATER_ANSWER_WITHIN);
        }
    }

    async fn read_once(&self, id: EffectId, within: Duration) -> Result<Result<Option<Entry>, LedgerError>, ApiFailed> {
        let Some(message) = last(&self.link, &self.names, &self.names.effect(id), within).await? else {
            return Ok(Ok(None));
        };
        let entry = match entry::decode(id, message.seq, &message.data) {
            Ok(entry) => entry,
            Err(damaged) => return Ok(Err(damaged)),
        };
        let whole = whole(&self.link, &self.names, entry, self.clock.now()).await?;
        Ok(whole.map(Some))
    }

    /// How long a request may take that is answered until `until`.
    pub(crate) fn left(&self, until: Timestamp) -> Duration {
        // A moment too short for any answer would only leave a doubt behind.
        until.since(self.clock.local()).clamp(Duration::from_millis(50), ANSWER_WITHIN)
    }
}

/// The entry with its answer, unless that does not count any more.
///
/// # Errors
/// The outer: when the leader does not answer. The inner: when pieces of it are missing or damaged.
pub(crate) async fn whole(
    link: &crate::link::Link,
    names: &Names,
    entry: Entry,
    now: Timestamp,
) -> Result<Result<Entry, LedgerError>, ApiFailed> {
    let Held::Parted(head, parts, parts_until) = entry.held else { return Ok(Ok(entry)) };
    if now >= parts_until {
        return Ok(Ok(Entry { held: Held::Record(head), ..entry }));
    }
    let mut pieces = Vec::new();
    for number in 0..usize::try_from(parts).unwrap_or(usize::MAX) {
        match last(link, names, &names.part(entry.token, number), ANSWER_WITHIN).await? {
            Some(message) => pieces.push(message.data),
            None => {
                let what = format!("piece {number} of its answer is missing");
                return Ok(Err(LedgerError::Damaged { id: head.id, what }));
            }
        }
    }
    let record = entry::assemble(*head, &pieces);
    Ok(record.map(|record| Entry { held: Held::Record(Box::new(record)), ..entry }))
}

/// The wait before something is tried again: from 2 ms doubled up to 100 ms.
#[derive(Debug)]
pub(crate) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(Duration::from_millis(2))
    }
}

impl Pause {
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_millis(100));
    }
}
