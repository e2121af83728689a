//! Reading everything a ledger folder holds, and reporting every damage instead of stopping at the first.

use crate::{
    Damage, Error,
    log::{
        Entry, batch,
        scan::{self, Found},
    },
    store::{
        Options,
        open::{self, Folder},
        value,
    },
    table::{Table, manifest},
};

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// Records read back whole from the table, shadowed ones not counted.
    pub table_records: u64,
    /// Batches of the log that the table does not cover, read back whole.
    pub log_batches: u64,
    /// Table files read as a whole.
    pub tables: u64,
    /// Everything that is wrong. Empty: the ledger is whole.
    pub damages: Vec<Damage>,
}

/// Reads everything in a ledger folder that nobody has open: every table file against its checksum, every record, and
/// every batch of the log.
///
/// # Errors
/// [`Error::Locked`], [`Error::NotALedger`], and I/O errors. Damage is no error: it is in the [`Verification`].
pub fn verify(options: &Options) -> Result<Verification, Error> {
    let mut report = Verification::default();
    let Some(folder) = report.take(open::lock_folder(options))? else { return Ok(report) };
    let applied = verify_table(options, &folder, &mut report)?;
    verify_log(&folder, applied, &mut report)?;
    Ok(report)
}

pub(crate) fn verify_table(
    options: &Options,
    folder: &Folder,
    report: &mut Verification,
) -> Result<Option<u64>, Error> {
    let dir = folder.layout.table();
    let Some(files) = report.take(manifest::check(&dir))? else { return Ok(None) };
    for file in &files {
        report.tables += u64::from(report.take(manifest::check_whole(&dir, file))?.is_some());
    }
    let opened = Table::open(&dir, false, options.sizes(), options.sweeper.clone());
    let Some(table) = report.take(opened)? else { return Ok(None) };
    for item in table.range(&[], &[]) {
        let Some((key, stored)) = report.take(item)? else { break };
        if value::is_whole(&key, &stored) {
            report.table_records += 1;
        } else {
            report.note(Damage { place: dir.clone(), what: format!("record {} fails its check", key.escape_ascii()) });
        }
    }
    report.take(table.applied())
}

fn verify_log(folder: &Folder, applied: Option<u64>, report: &mut Verification) -> Result<(), Error> {
    let found = &folder.found;
    let Some(marked) = report.take(folder.mark())? else { return Ok(()) };
    let Some(applied) = applied else { return Ok(()) };
    if let Err(what) = scan::judge(found, applied, marked) {
        report.note(Damage { place: folder.layout.log(), what });
    }
    for number in batches_after(found, applied) {
        report.log_batches += u64::from(report.take(verify_batch(folder, number))?.is_some());
    }
    Ok(())
}

fn batches_after(found: &Found, applied: u64) -> impl Iterator<Item = u64> {
    found.batches.range(applied + 1..).filter(|(_, place)| place.whole).map(|(number, _)| *number)
}

fn verify_batch(folder: &Folder, number: u64) -> Result<(), Error> {
    let place = &folder.found.batches[&number];
    let file = &folder.segments[place.segment].file;
    let damaged = |what: &str| Error::damaged(file.path(), format!("batch {number} {what}"));
    let bytes = scan::read_batch(file, place, folder.identity.salt)?;
    let entries = batch::entries(&bytes, place.header.entries).ok_or_else(|| damaged("does not parse"))?;
    let whole = entries.iter().all(|entry| match entry {
        Entry::Put(key, stored) => value::is_whole(key.as_ref(), stored),
        Entry::Delete(_) => true,
    });
    if whole { Ok(()) } else { Err(damaged("holds a record that fails its check")) }
}

impl Verification {
    /// The result, or a note of its damage. Other errors end the verification.
    fn take<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::Damaged(damage)) => {
                self.note(damage);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    fn note(&mut self, damage: Damage) {
        /// More would not tell anything new.
        const DAMAGES_MAX: usize = 1000;
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(damage);
        }
    }
}
