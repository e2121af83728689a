//! Making a damaged ledger usable again, with what can still be read of it.
//!
//! What is lost is lost: a key whose record cannot be read turns absent, and its effect may run again. That is why
//! nothing does this by itself. What was there is kept beside, and the ledger remembers the repair on its audit log.

use crate::{
    Damage, Error, disk,
    log::{Mark, batch, scan},
    store::{
        Options,
        memory::Generation,
        open::{self, Folder},
        value,
    },
    table::{Table, manifest, salvage},
    verify::{self, Verification},
};
use semel_core::{
    effect::{AuditEvent, AuditKind, Authority, Fence},
    time::Timestamp,
};
use std::path::{Path, PathBuf};

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repair {
    /// What was wrong.
    pub damages: Vec<Damage>,
    /// Records that were read back.
    pub records: u64,
    /// Batches of the log that were read back.
    pub batches: u64,
    /// Batches of the log that should have been there and were not, or not whole.
    pub batches_lost: u64,
    /// Bytes of table blocks that could not be read.
    pub table_bytes_lost: u64,
    /// Where the files as they were before are kept.
    pub kept: Vec<PathBuf>,
}

/// Repairs the ledger folder, which nobody may have open. Does nothing to one that is whole.
///
/// Calling this is accepting the loss: ask first, and show what [`crate::verify`] says.
///
/// # Errors
/// [`Error::Locked`]; I/O errors; [`Error::Damaged`] if the ledger's identity is gone: without it nothing can be read.
pub fn repair_accepting_loss(options: &Options, by: Authority, now: Timestamp) -> Result<Repair, Error> {
    let mut report = Repair { damages: verify::verify(options)?.damages, ..Repair::default() };
    if report.damages.is_empty() {
        return Ok(report);
    }
    let mut folder = open::lock_folder(options)?;
    folder.identity.write(&folder.layout.identity())?;
    let whole = repair_table(options, &folder, &mut report)?;
    let table = Table::open(&folder.layout.table(), false, options.sizes(), options.sweeper.clone())?;
    let applied = table.applied()?;
    let marked = folder.mark().unwrap_or(0);
    let highest = folder.found.batches.keys().next_back().copied().unwrap_or(0);
    // Behind everything that was ever there: no batch number and no fence is given twice.
    let last = applied.max(marked).max(highest) + 1;
    let mut saved = replay_what_is_whole(&folder, applied, &mut report)?;
    report.batches_lost = marked.max(highest).saturating_sub(applied).saturating_sub(report.batches);
    saved.last = last;
    note_repair(&mut saved, last, &report, by, now)?;
    table.checkpoint(&saved)?;
    drop(table);
    reset_log(&mut folder, last, &mut report)?;
    tracing::warn!(whole_table = whole, ?report, "the ledger was repaired");
    Ok(report)
}

/// Leaves a table that can be opened and read; returns whether the one that was there is.
fn repair_table(options: &Options, folder: &Folder, report: &mut Repair) -> Result<bool, Error> {
    let dir = folder.layout.table();
    let mut check = Verification::default();
    verify::verify_table(options, folder, &mut check)?;
    if check.damages.is_empty() {
        report.records = check.table_records;
        return Ok(true);
    }
    let fresh = folder.layout.dir.join("table.new");
    disk::remove_dir_all(&fresh)?;
    let salvaged = salvage::rebuild(&dir, &fresh, options.sizes())?;
    (report.records, report.table_bytes_lost) = (salvaged.records, salvaged.lost_bytes);
    manifest::check(&fresh)?;
    let kept = aside(&folder.layout.dir, "table");
    if disk::is_dir(&dir) {
        disk::exchange(&fresh, &dir)?;
        disk::rename(&fresh, &kept)?;
        report.kept.push(kept);
    } else {
        disk::rename(&fresh, &dir)?;
    }
    disk::sync_dir(&folder.layout.dir)?;
    Ok(false)
}

/// Applies every whole batch that the table does not cover, in their order. Each entry is the whole state of its key,
/// so a later batch is right also where an earlier one is missing.
fn replay_what_is_whole(folder: &Folder, applied: u64, report: &mut Repair) -> Result<Generation, Error> {
    let mut saved = Generation::default();
    for (number, place) in folder.found.batches.range(applied + 1..).filter(|(_, place)| place.whole) {
        let bytes = scan::read_batch(&folder.segments[place.segment].file, place, folder.identity.salt)?;
        let len = bytes.len();
        if let Some(entries) = batch::entries(&bytes, place.header.entries) {
            saved.replay(*number, len, entries);
            report.batches += 1;
        }
    }
    Ok(saved)
}

fn note_repair(saved: &mut Generation, last: u64, report: &Repair, by: Authority, now: Timestamp) -> Result<(), Error> {
    let Repair { batches_lost, table_bytes_lost, records, .. } = report;
    let detail = format!(
        "{} damages: {batches_lost} batches and {table_bytes_lost} bytes of tables lost, {records} records kept",
        report.damages.len()
    );
    let event = AuditEvent { at: now, id: None, fence: Fence(0), kind: AuditKind::Repaired, by, detail: detail.into() };
    let key = crate::ledger::first_audit_key(last);
    let mut stored = Vec::new();
    let line = semel_ledger::codec::encode_audit(&event);
    value::encode(&mut stored, &key, None, |out| out.extend_from_slice(&line));
    saved.put(key, stored.into(), false);
    Ok(())
}

/// Puts the log aside and begins a new one behind batch `last`, which the table covers. Until the mark is written the
/// old log's batches are all older than the table, so a crash in between does no harm.
fn reset_log(folder: &mut Folder, last: u64, report: &mut Repair) -> Result<(), Error> {
    folder.segments.clear();
    let log = folder.layout.log();
    let kept = aside(&folder.layout.dir, "log");
    if disk::is_dir(&log) {
        disk::rename(&log, &kept)?;
        report.kept.push(kept);
    }
    disk::create_dir(&log)?;
    disk::sync_dir(&folder.layout.dir)?;
    Mark::create(&folder.layout.mark(), folder.identity.salt)?;
    Mark::open(&folder.layout.mark(), folder.identity.salt)?.0.advance(last)
}

/// A name that nothing has yet.
fn aside(dir: &Path, name: &str) -> PathBuf {
    let names = (1..).map(|n| dir.join(format!("{name}.damaged-{n}")));
    names.into_iter().find(|path| !disk::is_dir(path)).unwrap_or_else(|| dir.join(name))
}
