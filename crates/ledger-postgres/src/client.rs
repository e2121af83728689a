//! The functions of the schema, as functions.
//!
//! Statements go unnamed, with their types: one round trip, and nothing that a pooler would have to keep.

use semel_core::effect::{AuditEvent, Fence};
use semel_core::scope::EffectId;
use semel_core::time::Timestamp;
use semel_ledger::codec;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use crate::row::Stored;
use crate::sql::{Id, fence, timestamp};

/// The statements, with the schema's name in them.
#[derive(Debug)]
pub(crate) struct Statements {
    turn: String,
    look: String,
    write: String,
    make_room: String,
    make_room_for: String,
    pub(crate) agree: String,
    pub(crate) contracts: String,
    pub(crate) live: String,
    pub(crate) audit: String,
    pub(crate) enter: String,
    beat: String,
    pub(crate) sweep: String,
    pub(crate) page: String,
}

impl Statements {
    pub(crate) fn of(schema: &str) -> Self {
        let s = format!("\"{schema}\"");
        let columns = crate::row::COLUMNS;
        let live = format!(
            "SELECT id, true, fence, revision, token, claimed_at, lease_until, NULL::bigint, NULL::bigint, \
             NULL::bigint, 0, record, NULL::bytea FROM {s}.live"
        );
        let settled = format!(
            "SELECT id, false, fence, NULL::integer, NULL::bigint, claimed_at, NULL::bigint, at, until, marker_until, \
             attempts, record, outcome FROM {s}.settled"
        );
        Self {
            turn: format!("SELECT * FROM {s}.turn($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11)"),
            look: format!("SELECT {columns} FROM {s}.look($1,$2)"),
            write: format!("SELECT * FROM {s}.write($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18)"),
            make_room: format!("SELECT {s}.make_room('{{}}')"),
            make_room_for: format!(
                "SELECT {s}.make_room(array(SELECT DISTINCT keep_ms FROM {s}.live WHERE id = ANY ($1)))"
            ),
            agree: format!("SELECT {s}.agree($1,$2,$3,$4)"),
            contracts: format!(
                "SELECT g.now, c.scope, c.terms FROM (SELECT {s}.guard(9223372036854775807) AS now) g \
                 LEFT JOIN {s}.contracts c ON true ORDER BY c.scope"
            ),
            live: format!("{live} WHERE ($1::uuid IS NULL OR id > $1) ORDER BY id LIMIT $2"),
            audit: format!("SELECT number, line FROM {s}.audit WHERE number > $1 ORDER BY number LIMIT $2"),
            enter: format!("SELECT * FROM {s}.enter()"),
            beat: format!("SELECT {s}.beat()"),
            sweep: format!("SELECT {s}.sweep($1)"),
            page: format!(
                "({live} WHERE ($1::uuid IS NULL OR id > $1) ORDER BY id LIMIT $2) UNION ALL \
                 ({settled} WHERE ($1::uuid IS NULL OR id > $1) AND length(record) > 0 ORDER BY id LIMIT $2) \
                 ORDER BY 1, 2 DESC, 3 DESC LIMIT $2"
            ),
        }
    }

    /// Claims absent keys and settles open effects, in one transaction.
    pub(crate) async fn turn(&self, client: &Client, turn: &Turn, not_after: i64) -> Result<Turned, Error> {
        let parameters: [(&(dyn ToSql + Sync), Type); 11] = [
            (&not_after, Type::INT8),
            (&turn.claim_ids, Type::UUID_ARRAY),
            (&turn.claim_tokens, Type::INT8_ARRAY),
            (&turn.claim_leases, Type::INT8_ARRAY),
            (&turn.claim_keeps, Type::INT8_ARRAY),
            (&turn.claim_markers, Type::INT8_ARRAY),
            (&turn.claim_records, Type::BYTEA_ARRAY),
            (&turn.settle_ids, Type::UUID_ARRAY),
            (&turn.settle_fences, Type::INT8_ARRAY),
            (&turn.settle_attempts, Type::INT4_ARRAY),
            (&turn.settle_outcomes, Type::BYTEA_ARRAY),
        ];
        let row = client.query_typed_one(&self.turn, &parameters).await?;
        let ids = |n| row.try_get::<_, Option<Vec<Id>>>(n).map(Option::unwrap_or_default);
        let numbers = |n| row.try_get::<_, Option<Vec<i64>>>(n).map(Option::unwrap_or_default);
        Ok(Turned {
            now: timestamp(row.try_get(0)?),
            taken: ids(1)?.into_iter().map(|id| id.0).zip(numbers(2)?.into_iter().map(fence)).collect(),
            concluded: ids(3)?.into_iter().map(|id| id.0).zip(numbers(4)?.into_iter().map(timestamp)).collect(),
            records: row.try_get::<_, Option<Vec<Vec<u8>>>>(5)?.unwrap_or_default(),
        })
    }

    /// What stands under `ids`, and the store's clock. `watched` are marked as waited for.
    pub(crate) async fn look(
        &self,
        client: &Client,
        ids: &[Id],
        watched: &[Id],
    ) -> Result<(Timestamp, Vec<Stored>), Error> {
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&ids, Type::UUID_ARRAY), (&watched, Type::UUID_ARRAY)];
        let rows = client.query_typed(&self.look, &parameters).await?;
        let mut now = Timestamp::EPOCH;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            match row.try_get::<_, Option<Id>>(0)? {
                None => now = timestamp(row.try_get(5)?),
                Some(_) => found.push(Stored::read(row)?),
            }
        }
        Ok((now, found))
    }

    /// Writes what was decided, each only if it still holds.
    pub(crate) async fn write(&self, client: &Client, w: &Writes, not_after: i64) -> Result<Written, Error> {
        let parameters: [(&(dyn ToSql + Sync), Type); 18] = [
            (&not_after, Type::INT8),
            (&w.ids, Type::UUID_ARRAY),
            (&w.actions, Type::INT4_ARRAY),
            (&w.fences, Type::INT8_ARRAY),
            (&w.revisions, Type::INT4_ARRAY),
            (&w.holds_until, Type::INT8_ARRAY),
            (&w.tokens, Type::INT8_ARRAY),
            (&w.leases_until, Type::INT8_ARRAY),
            (&w.ats, Type::INT8_ARRAY),
            (&w.untils, Type::INT8_ARRAY),
            (&w.markers_until, Type::INT8_ARRAY),
            (&w.records, Type::BYTEA_ARRAY),
            (&w.outcomes, Type::BYTEA_ARRAY),
            (&w.audits, Type::BYTEA_ARRAY),
            (&w.imported_fences, Type::INT8_ARRAY),
            (&w.claimed_ats, Type::INT8_ARRAY),
            (&w.keeps, Type::INT8_ARRAY),
            (&w.markers, Type::INT8_ARRAY),
        ];
        let row = client.query_typed_one(&self.write, &parameters).await?;
        let fences: Vec<Option<i64>> = row.try_get(2)?;
        Ok(Written {
            now: timestamp(row.try_get(0)?),
            done: row.try_get(1)?,
            fences: fences.into_iter().map(|number| number.map(fence)).collect(),
        })
    }

    /// A commit that changes nothing.
    pub(crate) async fn beat(&self, client: &Client) -> Result<(), Error> {
        client.query_typed(&self.beat, &[]).await.map(drop)
    }

    /// Makes the partitions that settlements of `ids` need.
    pub(crate) async fn make_room_for(&self, client: &Client, ids: &[Id]) -> Result<(), Error> {
        client.query_typed(&self.make_room_for, &[(&ids, Type::UUID_ARRAY)]).await.map(drop)
    }

    /// Makes the partitions that settlements like those before will need soon.
    pub(crate) async fn make_room(&self, client: &Client) -> Result<(), Error> {
        client.query_typed(&self.make_room, &[]).await.map(drop)
    }
}

/// The arguments of a turn, an element for each operation.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) claim_ids: Vec<Id>,
    pub(crate) claim_tokens: Vec<i64>,
    pub(crate) claim_leases: Vec<i64>,
    pub(crate) claim_keeps: Vec<i64>,
    pub(crate) claim_markers: Vec<i64>,
    pub(crate) claim_records: Vec<Vec<u8>>,
    pub(crate) settle_ids: Vec<Id>,
    pub(crate) settle_fences: Vec<i64>,
    pub(crate) settle_attempts: Vec<i32>,
    pub(crate) settle_outcomes: Vec<Vec<u8>>,
}

impl Turn {
    pub(crate) fn is_empty(&self) -> bool {
        self.claim_ids.is_empty() && self.settle_ids.is_empty()
    }
}

/// What a turn did. What it did not do is not in here.
#[derive(Debug)]
pub(crate) struct Turned {
    pub(crate) now: Timestamp,
    /// The claims that were made.
    pub(crate) taken: Vec<(EffectId, Fence)>,
    /// The effects that were settled, and when they had been claimed.
    pub(crate) concluded: Vec<(EffectId, Timestamp)>,
    /// Their records as of the claim, in the same order.
    pub(crate) records: Vec<Vec<u8>>,
}

/// The arguments of a write, an element for each operation.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    pub(crate) ids: Vec<Id>,
    pub(crate) actions: Vec<i32>,
    pub(crate) fences: Vec<i64>,
    pub(crate) revisions: Vec<i32>,
    pub(crate) holds_until: Vec<i64>,
    pub(crate) tokens: Vec<Option<i64>>,
    pub(crate) leases_until: Vec<Option<i64>>,
    pub(crate) ats: Vec<Option<i64>>,
    pub(crate) untils: Vec<Option<i64>>,
    pub(crate) markers_until: Vec<Option<i64>>,
    pub(crate) records: Vec<Option<Vec<u8>>>,
    pub(crate) outcomes: Vec<Option<Vec<u8>>>,
    pub(crate) audits: Vec<Option<Vec<u8>>>,
    /// Of records that are taken over from another ledger.
    pub(crate) imported_fences: Vec<Option<i64>>,
    pub(crate) claimed_ats: Vec<Option<i64>>,
    pub(crate) keeps: Vec<Option<i64>>,
    pub(crate) markers: Vec<Option<i64>>,
}

/// What a write did.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) now: Timestamp,
    /// Which decisions still held and were written.
    pub(crate) done: Vec<bool>,
    /// The new fences of those that asked for one.
    pub(crate) fences: Vec<Option<Fence>>,
}

/// An audit line from its row.
pub(crate) fn audit_line(row: &Row) -> Result<(u64, AuditEvent), String> {
    let read = || Ok::<_, Error>((row.try_get::<_, i64>(0)?, row.try_get::<_, &[u8]>(1)?));
    let (number, line) = read().map_err(|error| error.to_string())?;
    let event = codec::decode_audit(line).map_err(|what| format!("audit line {number}: {what}"))?;
    Ok((number.unsigned_abs(), event))
}
