//! Effects as records of the store: their keys, and what becomes of them when their windows end.

use super::{clock::GuardedClock, key};
use crate::store::{Expired, Key, Sweeper, Value, space};
use semel_core::{
    effect::{AuditEvent, Record, State},
    scope::EffectId,
    time::Timestamp,
};
use semel_ledger::{LedgerError, codec};
use std::{panic::AssertUnwindSafe, sync::Arc};

/// Where an open or unknown effect stands.
pub(crate) fn live_key(id: EffectId) -> Key {
    key(&[&[space::LIVE], id.as_bytes()])
}

/// Where a settled, consumed or expired effect stands.
pub(crate) fn settled_key(id: EffectId) -> Key {
    key(&[&[space::SETTLED], id.as_bytes()])
}

/// Where an audit line stands.
pub(crate) fn audit_key(number: u64) -> Key {
    key(&[&[space::AUDIT], &number.to_be_bytes()])
}

/// Where the scopes' contracts stand.
pub(crate) fn contracts_key() -> Key {
    key(&[&[space::META], b"contracts"])
}

/// Where the clock's high-water mark stands.
pub(crate) fn clock_key() -> Key {
    key(&[&[space::META], b"clock"])
}

/// The id of the effect that stands under a key.
pub(crate) fn id_of(key: &[u8]) -> Option<EffectId> {
    Some(EffectId::from_bytes(key.get(1..)?.try_into().ok()?))
}

pub(crate) fn live_record((key, value): (Key, Value)) -> Result<Record, LedgerError> {
    let odd = || LedgerError::Unreachable(format!("{key:?} is no key of an effect"));
    codec::decode_record(id_of(key.as_ref()).ok_or_else(odd)?, &value.body)
}

pub(crate) fn audit_line((key, value): (Key, Value)) -> Result<(u64, AuditEvent), LedgerError> {
    let odd = |what: String| LedgerError::Unreachable(format!("audit line {key:?}: {what}"));
    let number = key.as_ref().get(1..).and_then(|bytes| bytes.try_into().ok());
    let number = number.map(u64::from_be_bytes).ok_or_else(|| odd("its key is malformed".into()))?;
    Ok((number, codec::decode_audit(&value.body).map_err(odd)?))
}

/// When compaction should look at a record again, in milliseconds; `None`: never.
pub(crate) fn attention_ms(record: &Record) -> Option<u64> {
    let at = match record.state {
        State::Open { .. } | State::Unknown { .. } => Timestamp::NEVER,
        State::Settled { until, .. } | State::Consumed { until, .. } => until,
        State::Expired { marker_until } => marker_until,
    };
    Some(at.as_millis()).filter(|&ms| at != Timestamp::NEVER && ms != u64::MAX)
}

/// Lets answers go when their window is over, and markers when theirs is.
pub(crate) struct EffectSweeper(AssertUnwindSafe<Arc<GuardedClock>>);

impl EffectSweeper {
    pub(crate) fn new(clock: Arc<GuardedClock>) -> Self {
        // It holds nothing but an atomic number; a panic elsewhere leaves that whole.
        Self(AssertUnwindSafe(clock))
    }
}

impl Sweeper for EffectSweeper {
    fn now_ms(&self) -> Option<u64> {
        self.0.sweep_now().map(Timestamp::as_millis)
    }

    fn expire(&self, key: &[u8], body: &[u8], now_ms: u64) -> Expired {
        if key.first() != Some(&space::SETTLED) {
            return Expired::Keep;
        }
        // What cannot be read is unknown, and what is unknown stays.
        let Some(Ok(record)) = id_of(key).map(|id| codec::decode_record(id, body)) else { return Expired::Keep };
        match record.compacted(Timestamp::from_millis(now_ms)) {
            None => Expired::Vanish,
            Some(marker) if marker == record => Expired::Keep,
            Some(marker) => {
                Expired::Replace { expires_at_ms: attention_ms(&marker), body: codec::encode_record(&marker) }
            }
        }
    }
}
