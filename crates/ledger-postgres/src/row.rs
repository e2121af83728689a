//! Rows of the two tables, and the records they make.
//!
//! SQL decides by columns and writes them: fences, times, attempts. So the columns override what the encoded record
//! says of the same things; everything else is in the encoded record, as every engine writes it.

use semel_core::effect::{Claim, Fence, Outcome, Record, State};
use semel_core::scope::EffectId;
use semel_core::time::Timestamp;
use semel_ledger::{LedgerError, codec};
use tokio_postgres::Row;

use crate::sql::{Id, fence, timestamp};

/// The columns of `look()`, in their order; also of the list of live effects and of the whole ledger.
pub(crate) const COLUMNS: &str = "id, is_live, fence, revision, token, claimed_at, lease_until, at, until, \
     marker_until, attempts, record, outcome";

/// What stands under an id.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) id: EffectId,
    /// Where it stands: as long as it is open or unknown.
    pub(crate) live: Option<Live>,
    pub(crate) fence: Fence,
    /// The record; none where only a trace of a released claim is left.
    pub(crate) record: Option<Result<Record, LedgerError>>,
}

/// What names the present state of a live row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) revision: i32,
    pub(crate) token: i64,
}

impl Stored {
    /// A row with the columns of [`COLUMNS`].
    ///
    /// # Errors
    /// When it is no such row.
    pub(crate) fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let Id(id) = row.try_get(0)?;
        let fence = fence(row.try_get(2)?);
        let claimed_at = timestamp(row.try_get(5)?);
        let bytes: &[u8] = row.try_get(11)?;
        let attempts = row.try_get::<_, i32>(10)?.unsigned_abs();
        let (live, state) = if row.try_get(1)? {
            let live = Live { revision: row.try_get(3)?, token: row.try_get(4)? };
            (Some(live), Kept::Live(row.try_get::<_, Option<i64>>(6)?.map(timestamp)))
        } else {
            let [at, until, marker_until] = [7, 8, 9].map(|n| row.try_get(n).map(timestamp));
            let times = Times { at: at?, until: until?, marker_until: marker_until? };
            (None, Kept::Settled(times, row.try_get(12)?))
        };
        let record = (!bytes.is_empty()).then(|| {
            let base = codec::decode_record(id, bytes)?;
            let state = state.of(&base).map_err(|what| LedgerError::Damaged { id, what })?;
            let attempts = base.attempts.saturating_add(attempts);
            Ok(Record { state, fence, claimed_at, attempts, ..base })
        });
        Ok(Self { id, live, fence, record })
    }

    /// The row that counts among those of one id: the live one, else the one with the greatest fence.
    pub(crate) fn newer(self, other: Self) -> Self {
        let rank = |stored: &Self| (stored.live.is_some(), stored.fence);
        if rank(&other) > rank(&self) { other } else { self }
    }

    /// The record, unless there is none at `now`.
    pub(crate) fn standing(&self, now: Timestamp) -> Result<Option<Record>, LedgerError> {
        let record = self.record.clone().transpose()?;
        Ok(record.filter(|record| record.compacted(now).is_some()))
    }
}

/// The times of a conclusion.
#[derive(Clone, Copy, Debug)]
struct Times {
    at: Timestamp,
    until: Timestamp,
    marker_until: Timestamp,
}

/// What the columns say of the state.
enum Kept<'a> {
    Live(Option<Timestamp>),
    Settled(Times, Option<&'a [u8]>),
}

impl Kept<'_> {
    fn of(self, base: &Record) -> Result<State, String> {
        match (self, &base.state) {
            (Self::Live(Some(lease_until)), State::Open { owner, .. }) => {
                Ok(State::Open { owner: *owner, lease_until })
            }
            (Self::Live(None), State::Unknown { .. }) => Ok(base.state.clone()),
            (Self::Live(_), state) => Err(format!("its columns contradict its record, which says {state:?}")),
            (Self::Settled(Times { marker_until, .. }, None), _) => Ok(State::Expired { marker_until }),
            (Self::Settled(times, Some(outcome)), _) => {
                let state = codec::decode_state(base.id, outcome).map_err(|e| e.to_string())?;
                timed(state, times).ok_or_else(|| "its outcome is no outcome".to_owned())
            }
        }
    }
}

fn timed(state: State, Times { at, until, marker_until }: Times) -> Option<State> {
    match state {
        State::Settled { answer, by, .. } => Some(State::Settled { answer, by, at, until, marker_until }),
        State::Consumed { tombstone, by, .. } => Some(State::Consumed { tombstone, by, at, until, marker_until }),
        _ => None,
    }
}

/// The encoded record of a claim, whose columns the database fills in.
pub(crate) fn encode_claim(id: EffectId, claim: &Claim) -> Vec<u8> {
    codec::encode_record(&Record {
        id,
        state: State::Open { owner: claim.owner, lease_until: Timestamp::EPOCH },
        fence: Fence(0),
        fingerprint: claim.fingerprint,
        proof: claim.proof,
        terms: claim.terms.clone(),
        claimed_at: Timestamp::EPOCH,
        attempts: 0,
        was_unknown: false,
    })
}

/// The state that a settlement by the owner leaves, without its times.
pub(crate) fn untimed(outcome: Outcome) -> State {
    let (by, at) = (semel_core::effect::Authority::Owner, Timestamp::EPOCH);
    let (until, marker_until) = (at, at);
    match outcome {
        Outcome::Settled(answer) => State::Settled { answer, by, at, until, marker_until },
        Outcome::Consumed(tombstone) => State::Consumed { tombstone, by, at, until, marker_until },
    }
}

/// What the columns and the encoded record of a row that was just settled make, read back as [`Stored::read`] would.
pub(crate) fn settled(
    id: EffectId,
    record: &[u8],
    (fence, claimed_at, at): (Fence, Timestamp, Timestamp),
    outcome: Outcome,
    attempts: u32,
) -> Result<Record, LedgerError> {
    let base = codec::decode_record(id, record)?;
    let (until, marker_until) = base.terms.window_from(at);
    let times = Times { at, until: rounded(until), marker_until: rounded(marker_until) };
    let state = timed(untimed(outcome), times);
    let state = state.ok_or_else(|| LedgerError::Damaged { id, what: "its outcome is no outcome".to_owned() })?;
    let attempts = base.attempts.saturating_add(attempts);
    Ok(Record { state, fence, claimed_at, attempts, ..base })
}

/// As a column keeps it.
fn rounded(at: Timestamp) -> Timestamp {
    timestamp(crate::sql::millis(at))
}
