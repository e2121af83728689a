//! Records as bytes: one version byte, then CBOR (RFC 8949) with numbered fields.
//!
//! New optional fields get new numbers, so that older and newer gateways read each other's records. The version
//! changes only when old records cannot be read any more.

use minicbor::{Decode, Encode};
use semel_core::{
    effect::{AuditEvent, Record},
    scope::EffectId,
};

use crate::LedgerError;

/// The format written today.
pub const VERSION: u8 = 1;

/// A record as bytes.
#[must_use]
pub fn encode_record(record: &Record) -> Vec<u8> {
    encode(record)
}

/// The record of `id` from its bytes.
///
/// # Errors
/// [`LedgerError::Damaged`] when the bytes are not a whole record, or not the record of `id`.
pub fn decode_record(id: EffectId, bytes: &[u8]) -> Result<Record, LedgerError> {
    let damaged = |what: String| LedgerError::Damaged { id, what };
    let record: Record = decode(bytes).map_err(damaged)?;
    if record.id == id { Ok(record) } else { Err(damaged(format!("it is the record of {}", record.id))) }
}

/// An audit line as bytes.
#[must_use]
pub fn encode_audit(event: &AuditEvent) -> Vec<u8> {
    encode(event)
}

/// An audit line from its bytes.
///
/// # Errors
/// What is wrong with them, in words.
pub fn decode_audit(bytes: &[u8]) -> Result<AuditEvent, String> {
    decode(bytes)
}

fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    // Writing to a Vec cannot fail, and the derived encoders have no errors of their own.
    let written = minicbor::encode(value, &mut bytes);
    debug_assert!(written.is_ok(), "encoding to memory failed: {written:?}");
    bytes
}

fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, String> {
    let (version, rest) = bytes.split_first().ok_or("it is empty")?;
    if *version != VERSION {
        return Err(format!("format version {version} is not known to this release"));
    }
    let mut decoder = minicbor::Decoder::new(rest);
    let value = decoder.decode().map_err(|e| e.to_string())?;
    if decoder.position() == rest.len() {
        Ok(value)
    } else {
        Err(format!("{} bytes too many", rest.len() - decoder.position()))
    }
}
