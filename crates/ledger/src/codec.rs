//! Records as bytes: one version byte, then CBOR (RFC 8949) with numbered fields.
//!
//! New optional fields get new numbers, so that older and newer gateways read each other's records. The version
//! changes only when old records cannot be read any more.

use std::cell::RefCell;

use minicbor::{Decode, Encode};
use semel_core::{
    effect::{AuditEvent, Record, State},
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

/// A state as bytes, for engines that keep it beside the rest of its record.
#[must_use]
pub fn encode_state(state: &State) -> Vec<u8> {
    encode(state)
}

/// The state of `id` from its bytes.
///
/// # Errors
/// [`LedgerError::Damaged`] when the bytes are not a whole state.
pub fn decode_state(id: EffectId, bytes: &[u8]) -> Result<State, LedgerError> {
    decode(bytes).map_err(|what| LedgerError::Damaged { id, what })
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

/// A buffer larger than this is not kept for the next value.
const SCRATCH_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    /// Values are written here, where there is room already, and copied out at their exact size: an encoder that grows
    /// its output moves a record several times, and keeps what it did not need.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        scratch.push(VERSION);
        // Writing to a Vec cannot fail, and the derived encoders have no errors of their own.
        let written = minicbor::encode(value, &mut *scratch);
        debug_assert!(written.is_ok(), "encoding to memory failed: {written:?}");
        let bytes = scratch.as_slice().to_vec();
        if scratch.capacity() > SCRATCH_BYTES_MAX {
            *scratch = Vec::new();
        }
        bytes
    })
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
