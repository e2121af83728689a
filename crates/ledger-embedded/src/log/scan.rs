//! Reading the log back: what is there, and whether it is enough.

use super::batch::{HEADER, Header};
use crate::{
    disk::{BLOCK, File},
    error::Error,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index into the list of segments that was scanned.
    pub(crate) segment: usize,
    pub(crate) at: u64,
    pub(crate) header: Header,
    /// Whether the entries match the header.
    pub(crate) whole: bool,
}

/// Every batch header found in the log, by number. Two of one number are damage (see [`Found::twice`]).
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) batches: BTreeMap<u64, Place>,
    pub(crate) twice: Option<u64>,
}

/// Looks for batches at every block of a segment. A damaged header cannot hide its successors, because the search goes
/// on block by block.
pub(crate) fn scan_segment(found: &mut Found, index: usize, file: &File, salt: u64) -> Result<(), Error> {
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
    let n = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    let mut at = 0;
    while at < bytes.len() {
        let Some(header) = Header::parse(&bytes[at..], salt) else {
            at += BLOCK;
            continue;
        };
        let payload = bytes.get(at + HEADER..at + HEADER + header.payload_len as usize);
        let whole = payload.is_some_and(|payload| header.vouches_for(payload, salt));
        let place = Place { segment: index, at: at as u64, header, whole };
        if found.batches.insert(header.number, place).is_some() {
            found.twice = Some(header.number);
        }
        // Behind a torn batch anything may stand, also inside the length it claims.
        at += if whole { usize::try_from(header.disk_len()).unwrap_or(BLOCK) } else { BLOCK };
    }
    Ok(())
}

/// Reads one whole batch, header included.
pub(crate) fn read_batch(file: &File, place: &Place, salt: u64) -> Result<Bytes, Error> {
    let mut bytes = vec![0; HEADER + place.header.payload_len as usize];
    let n = file.read_at(&mut bytes, place.at)?;
    let whole = n == bytes.len() && place.header.vouches_for(&bytes[HEADER..], salt);
    if !whole {
        return Err(Error::damaged(file.path(), format!("batch {} changed while it was read", place.header.number)));
    }
    Ok(Bytes::from(bytes))
}

/// What recovery is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The last batch that counts; batches `applied + 1 ..= last` are replayed.
    pub(crate) last: u64,
    /// A batch that was being written when the process or the power went, and that nobody was told of.
    pub(crate) torn: Option<u64>,
}

/// Decides from what was found, from what the table covers (`applied`) and from the high-water mark.
///
/// # Errors
/// In words: acknowledged batches are missing or damaged.
pub(crate) fn judge(found: &Found, applied: u64, mark: u64) -> Result<Verdict, String> {
    let mut last = applied;
    while found.batches.get(&(last + 1)).is_some_and(|place| place.whole) {
        last += 1;
    }
    let next = last + 1;
    if let Some(number) = found.twice.filter(|&number| number > applied) {
        return Err(format!("batch {number} is there twice"));
    }
    if let Some((&later, _)) = found.batches.range(next + 1..).next_back() {
        return Err(format!("batch {next} is missing or damaged, but batch {later} follows it"));
    }
    if mark > last {
        return Err(format!("batches {next} to {mark} were acknowledged, but the log ends with batch {last}"));
    }
    Ok(Verdict { last, torn: found.batches.contains_key(&next).then_some(next) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{log::BatchBuffer, store::key::Key};

    fn header(number: u64) -> Header {
        let mut buffer = BatchBuffer::default();
        buffer.delete(&Key::new(b"k").unwrap());
        Header::parse(&buffer.seal(number, 0), 0).unwrap()
    }

    fn found(whole: &[u64], torn: &[u64]) -> Found {
        let place = |number: u64, whole| Place { segment: 0, at: 0, header: header(number), whole };
        let batches = whole.iter().map(|&n| (n, place(n, true))).chain(torn.iter().map(|&n| (n, place(n, false))));
        Found { batches: batches.collect(), twice: None }
    }

    #[test]
    fn a_whole_log_is_replayed_from_the_table_on() {
        assert_eq!(judge(&found(&[3, 4, 5, 6], &[]), 4, 6), Ok(Verdict { last: 6, torn: None }));
        assert_eq!(judge(&found(&[3, 4], &[]), 4, 4), Ok(Verdict { last: 4, torn: None }));
        assert_eq!(judge(&found(&[], &[]), 0, 0), Ok(Verdict { last: 0, torn: None }));
        // After a power loss the mark may be old; what is durable counts.
        assert_eq!(judge(&found(&[5, 6, 7], &[]), 4, 2), Ok(Verdict { last: 7, torn: None }));
    }

    #[test]
    fn an_unacknowledged_torn_tail_is_repaired_and_nothing_else() {
        assert_eq!(judge(&found(&[1, 2], &[3]), 0, 2), Ok(Verdict { last: 2, torn: Some(3) }));
        assert!(judge(&found(&[1, 2], &[3]), 0, 3).is_err(), "acknowledged");
        assert!(judge(&found(&[1, 2, 4], &[3]), 0, 2).is_err(), "a later batch is whole");
        assert!(judge(&found(&[1, 2], &[3, 4]), 0, 2).is_err(), "a later batch was begun");
        assert!(judge(&found(&[1, 2, 4], &[]), 0, 2).is_err(), "a gap");
    }

    #[test]
    fn recovery_below_the_mark_or_above_a_gap_refuses() {
        assert!(judge(&found(&[1, 2], &[]), 0, 3).is_err());
        assert!(judge(&found(&[5, 6], &[]), 3, 6).is_err(), "the table is older than the log begins");
        assert!(judge(&found(&[], &[]), 3, 4).is_err());
    }

    #[test]
    fn old_damage_below_the_table_does_not_matter() {
        assert_eq!(judge(&found(&[5], &[2]), 4, 5), Ok(Verdict { last: 5, torn: None }));
    }
}
