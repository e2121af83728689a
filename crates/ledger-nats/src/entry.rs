//! What a message of the stream says of an effect.
//!
//! Its number, which only the stream knows, is part of it: a claim's fence is the number of the message that made it. A
//! large answer stands in messages of its own, in the same atomic batch, so that it may go when its window ends while the
//! marker stays.

use std::time::Duration;

use bytes::Bytes;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use semel_core::effect::{Fence, Record, State};
use semel_core::scope::EffectId;
use semel_core::time::Timestamp;
use semel_ledger::{LedgerError, codec};

/// Stands in a record for the number that its message will get.
pub(crate) const OWN_NUMBER: Fence = Fence(0);
/// An answer up to this size stands beside the rest of its record, for as long as its marker.
const INLINE_BYTES_MAX: usize = 4096;
/// How long the trace of a released claim is kept: longer than anybody looks for it.
const RELEASED_FOR: Duration = Duration::from_secs(600);
/// How much longer than its time a message is kept: servers drop it by clocks of their own.
const KEPT_LONGER: Duration = Duration::from_secs(3600);
/// Longer is for ever.
const TTL_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// The format written today.
const VERSION: u8 = 1;

/// A message as it is stored, after one version byte.
#[derive(Debug, Encode, Decode)]
struct Stored {
    #[n(0)]
    token: u64,
    /// The claim that was released; there is no record then.
    #[n(1)]
    released: Option<Fence>,
    /// The record, without the answer.
    #[n(2)]
    head: Option<ByteVec>,
    /// The state that has the answer in it, when it is small.
    #[n(3)]
    answer: Option<ByteVec>,
    /// In how many messages the answer stands otherwise.
    #[n(4)]
    parts: u32,
    /// Until when they are kept.
    #[n(5)]
    parts_until: Timestamp,
}

/// What stands under an effect's subject.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// The number of its message.
    pub(crate) revision: u64,
    /// The random number of whoever wrote it.
    pub(crate) token: u64,
    pub(crate) held: Held,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Held {
    /// Nothing but the trace of a claim that was released.
    Released(Fence),
    Record(Box<Record>),
    /// A record whose answer stands in this many messages, until then.
    Parted(Box<Record>, u32, Timestamp),
}

/// Something to be stored.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) payload: Bytes,
    /// The pieces of the answer.
    pub(crate) parts: Vec<Bytes>,
    /// How long it and they are kept; none for ever.
    pub(crate) ttl: Option<Duration>,
    pub(crate) parts_ttl: Option<Duration>,
    /// For whoever lists what is open or unknown, without reading it all.
    pub(crate) state: &'static str,
}

/// The word for states that are open or unknown.
pub(crate) const LIVE: &str = "live";
const DONE: &str = "done";

/// A record as a message, at `now` of the store's clock.
pub(crate) fn encode(record: &Record, token: u64, now: Timestamp, part_bytes: usize) -> Encoded {
    let (until, marker_until) = match &record.state {
        State::Settled { until, marker_until, .. } | State::Consumed { until, marker_until, .. } => {
            (*until, *marker_until)
        }
        State::Expired { marker_until } => (Timestamp::EPOCH, *marker_until),
        State::Open { .. } | State::Unknown { .. } => {
            let stored = Stored { head: Some(codec::encode_record(record).into()), ..empty(token) };
            return Encoded { payload: bytes(&stored), parts: Vec::new(), ttl: None, parts_ttl: None, state: LIVE };
        }
    };
    let marker = Record { state: State::Expired { marker_until }, ..record.without_state() };
    let mut stored = Stored { head: Some(codec::encode_record(&marker).into()), ..empty(token) };
    let mut parts = Vec::new();
    if !matches!(record.state, State::Expired { .. }) {
        let answer = codec::encode_state(&record.state);
        if answer.len() <= INLINE_BYTES_MAX {
            stored.answer = Some(answer.into());
        } else {
            let answer = Bytes::from(answer);
            parts = (0..answer.len())
                .step_by(part_bytes)
                .map(|at| answer.slice(at..answer.len().min(at + part_bytes)))
                .collect();
            stored.parts = u32::try_from(parts.len()).unwrap_or(u32::MAX);
            stored.parts_until = until;
        }
    }
    let (ttl, parts_ttl) = (ttl(marker_until, now), ttl(until, now));
    Encoded { payload: bytes(&stored), parts, ttl, parts_ttl, state: DONE }
}

/// The trace of a released claim.
pub(crate) fn encode_release(fence: Fence, token: u64) -> Encoded {
    let stored = Stored { released: Some(fence), ..empty(token) };
    Encoded { payload: bytes(&stored), parts: Vec::new(), ttl: Some(RELEASED_FOR), parts_ttl: None, state: DONE }
}

/// What the message `revision` under the subject of `id` says.
///
/// # Errors
/// [`LedgerError::Damaged`] when it is not a whole message of `id`.
pub(crate) fn decode(id: EffectId, revision: u64, payload: &[u8]) -> Result<Entry, LedgerError> {
    let damaged = |what: String| LedgerError::Damaged { id, what };
    let (version, rest) = payload.split_first().ok_or_else(|| damaged("it is empty".to_owned()))?;
    if *version != VERSION {
        return Err(damaged(format!("message format {version} is not known to this release")));
    }
    let stored: Stored = minicbor::decode(rest).map_err(|error| damaged(error.to_string()))?;
    let held = match (stored.released, &stored.head) {
        (Some(fence), None) => Held::Released(fence),
        (None, Some(head)) => {
            let mut record = codec::decode_record(id, head)?;
            if record.fence == OWN_NUMBER {
                record.fence = Fence(revision);
            }
            if let Some(answer) = &stored.answer {
                record.state = codec::decode_state(id, answer)?;
            }
            match stored.parts {
                0 => Held::Record(Box::new(record)),
                parts => Held::Parted(Box::new(record), parts, stored.parts_until),
            }
        }
        _ => return Err(damaged("it is neither a record nor the trace of one".to_owned())),
    };
    Ok(Entry { revision, token: stored.token, held })
}

/// The record whose answer was in pieces.
///
/// # Errors
/// [`LedgerError::Damaged`] when the pieces are not its answer.
pub(crate) fn assemble(head: Record, pieces: &[Bytes]) -> Result<Record, LedgerError> {
    let state = codec::decode_state(head.id, &pieces.concat())?;
    Ok(Record { state, ..head })
}

fn empty(token: u64) -> Stored {
    Stored { token, released: None, head: None, answer: None, parts: 0, parts_until: Timestamp::EPOCH }
}

fn bytes(stored: &Stored) -> Bytes {
    let mut bytes = vec![VERSION];
    // Writing to a Vec cannot fail, and the derived encoders have no errors of their own.
    let written = minicbor::encode(stored, &mut bytes);
    debug_assert!(written.is_ok(), "encoding to memory failed: {written:?}");
    bytes.into()
}

fn ttl(until: Timestamp, now: Timestamp) -> Option<Duration> {
    let ttl = until.since(now) + KEPT_LONGER;
    (ttl <= TTL_MAX).then_some(ttl)
}
