//! Values as PostgreSQL reads and writes them.

use std::error::Error;

use bytes::{BufMut as _, BytesMut};
use semel_core::effect::Fence;
use semel_core::scope::EffectId;
use semel_core::time::Timestamp;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// An effect's id as a `uuid`: the same 16 bytes, in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(pub(crate) EffectId);

impl ToSql for Id {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Id {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(EffectId::from_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }
}

/// A moment or a length of time as a `bigint` of milliseconds; what does not fit is never.
pub(crate) fn bigint(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

/// A moment from a `bigint`.
pub(crate) fn timestamp(millis: i64) -> Timestamp {
    match u64::try_from(millis) {
        Ok(millis) if millis < i64::MAX.unsigned_abs() => Timestamp::from_millis(millis),
        Ok(_) => Timestamp::NEVER,
        Err(_) => Timestamp::EPOCH,
    }
}

/// A moment as a `bigint`.
pub(crate) fn millis(at: Timestamp) -> i64 {
    bigint(at.as_millis())
}

/// A fence from a `bigint`.
pub(crate) fn fence(number: i64) -> Fence {
    Fence(number.unsigned_abs())
}

/// A fence as a `bigint`. A fence that this ledger cannot have given matches none.
pub(crate) fn number(fence: Fence) -> i64 {
    i64::try_from(fence.0).unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_stays_never() {
        for at in [Timestamp::EPOCH, Timestamp::from_millis(1_800_000_000_000), Timestamp::NEVER] {
            assert_eq!(timestamp(millis(at)), at);
        }
        assert_eq!(timestamp(millis(Timestamp::from_millis(u64::MAX - 1))), Timestamp::NEVER);
        assert_eq!((number(Fence(7)), number(Fence(u64::MAX))), (7, -1));
    }
}
