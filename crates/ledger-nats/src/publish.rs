//! Publications: alone, or several in one atomic batch.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use semel_core::scope::EffectId;
use semel_ledger::LedgerError;
use serde::Deserialize;

use crate::error::{ApiError, in_words};
use crate::link::NoAnswer;
use crate::shared::Shared;

/// One message to be stored.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) subject: String,
    pub(crate) payload: Bytes,
    /// The number of the last message under a subject; stored only if it still is.
    pub(crate) after: Option<After>,
    pub(crate) ttl: Option<Duration>,
    /// The word for those who list effects.
    pub(crate) state: Option<&'static str>,
}

/// What a publication is compared with.
#[derive(Debug)]
pub(crate) struct After {
    pub(crate) number: u64,
    /// The subject, where it is not the publication's own.
    pub(crate) subject: Option<String>,
}

/// What became of a publication.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// Stored, under this number (the last message's, of a batch).
    Stored(u64),
    /// Not stored: something else stands there (under this number; 0 where nothing does), or is about to (none).
    Behind(Option<u64>),
    /// Not stored, because of circumstances that may pass.
    NotNow(String),
    /// Not stored: there is no room.
    NoRoom(String),
    /// Nobody knows.
    Lost(String),
    /// The engine has stopped, or the server does not understand.
    Failed(LedgerError),
}

/// A number that no message ever has.
const NEVER: u64 = i64::MAX.cast_unsigned();

/// The state of an effect, for those who list effects and read no payloads.
pub(crate) const STATE: &str = "Semel-State";

impl Shared {
    /// Publishes all or nothing, in order; numbers follow each other.
    pub(crate) async fn publish(&self, mut publications: Vec<Publication>, within: Duration) -> Published {
        let before = self.acknowledged();
        let Some(last) = publications.pop() else { return Published::NotNow("there is nothing to store".to_owned()) };
        let mut headers = headers(&last);
        if !publications.is_empty() {
            let batch = match getrandom::u64() {
                Ok(random) => format!("{random:016x}"),
                Err(error) => return Published::NotNow(error.to_string()),
            };
            in_batch(&mut headers, &batch, publications.len() + 1);
            headers.insert("Nats-Batch-Commit", "1");
            for (publication, number) in publications.into_iter().zip(1_usize..) {
                let mut headers = self::headers(&publication);
                in_batch(&mut headers, &batch, number);
                let Publication { subject, payload, .. } = publication;
                if let Err(error) = self.link.client.publish_with_headers(subject, headers, payload).await {
                    // Without its last message nothing of a batch is stored.
                    return Published::NotNow(in_words(&error));
                }
            }
        }
        let answer = self.link.ask(last.subject, Some(headers), last.payload, within).await;
        match answer {
            Ok(message) => self.acknowledged_as(&message.payload, before),
            Err(NoAnswer::NotSent(why)) => {
                self.fails(&why);
                Published::NotNow(why)
            }
            Err(NoAnswer::Lost(why)) => {
                self.fails(&why);
                Published::Lost(why)
            }
        }
    }

    /// The number of the last message of `id`, by the leader's word; none while another is on its way.
    ///
    /// A publication that no stream ever takes is refused with that number: the leader looks it up in memory, which costs
    /// it a quarter of a read.
    pub(crate) async fn number_of(&self, id: EffectId, within: Duration) -> Result<Option<u64>, Published> {
        let after = Some(After { number: NEVER, subject: None });
        let subject = self.names.effect(id);
        let asked = Publication { subject, payload: Bytes::new(), after, ttl: None, state: None };
        match self.publish(vec![asked], within).await {
            Published::Behind(number) => Ok(number),
            other => Err(other),
        }
    }

    fn acknowledged_as(&self, payload: &[u8], before: u64) -> Published {
        #[derive(Deserialize)]
        struct Ack {
            error: Option<ApiError>,
            #[serde(default)]
            seq: u64,
        }
        match serde_json::from_slice(payload) {
            Ok(Ack { error: None, seq }) => match self.acknowledge(seq, before) {
                Ok(()) => Published::Stored(seq),
                Err(stopped) => Published::Failed(stopped),
            },
            Ok(Ack { error: Some(error), .. }) => refused(&error),
            Err(error) => Published::Lost(format!("its answer cannot be read: {error}")),
        }
    }
}

fn refused(error: &ApiError) -> Published {
    let words = error.to_string();
    match error.err_code {
        ApiError::WRONG_SEQUENCE => {
            Published::Behind(error.description.rsplit(' ').next().and_then(|number| number.parse().ok()))
        }
        ApiError::WRONG_SEQUENCE_YET => Published::Behind(None),
        ApiError::BATCH_INCOMPLETE | ApiError::BATCHES_TOO_MANY => Published::NotNow(words),
        code if ApiError::NO_ROOM.contains(&code) => Published::NoRoom(words),
        // Whatever else a server in trouble says, perhaps others have stored it.
        _ if error.code >= 500 => Published::Lost(words),
        _ => Published::Failed(LedgerError::Unreachable(words)),
    }
}

fn headers(publication: &Publication) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(After { number, subject }) = &publication.after {
        headers.insert("Nats-Expected-Last-Subject-Sequence", number.to_string());
        if let Some(subject) = subject {
            headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", subject.as_str());
        }
    }
    if let Some(ttl) = publication.ttl {
        // Whole seconds, rounded up.
        headers.insert("Nats-TTL", (ttl.as_secs() + 1).to_string());
    }
    if let Some(state) = publication.state {
        headers.insert(STATE, state);
    }
    headers
}

fn in_batch(headers: &mut HeaderMap, batch: &str, number: usize) {
    headers.insert("Nats-Batch-Id", batch);
    headers.insert("Nats-Batch-Sequence", number.to_string());
}
