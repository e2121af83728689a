//! Everything a ledger folder holds, record by record.

use crate::{
    Error,
    ledger::{audit_line, id_of},
    log::scan as log_scan,
    store::{
        Options, Scan,
        memory::Memory,
        open::{self, Folder},
        space,
    },
    table::Table,
};
use semel_core::effect::{AuditEvent, Record};
use semel_ledger::codec;

/// One thing a ledger holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exported {
    /// An effect, live or settled.
    Effect(Box<Record>),
    /// A line of the audit log and its number.
    Audit(u64, AuditEvent),
}

/// The records of a ledger folder: live effects first, then the others, then the audit log, each in the order of
/// their ids. Damaged records are errors in between.
pub struct Export {
    scan: Scan,
    // Kept to the end: the folder is locked by it, and the scan reads its tables.
    _table: Table,
    _folder: Folder,
}

/// Reads a ledger folder that nobody has open, without changing it.
///
/// # Errors
/// As opening the ledger: what refuses to start is not exported. See [`crate::verify()`].
pub fn export(options: &Options) -> Result<Export, Error> {
    let folder = open::lock_folder(options)?;
    let table = Table::open(&folder.layout.table(), false, options.sizes(), options.sweeper.clone())?;
    let applied = table.applied()?;
    let verdict = log_scan::judge(&folder.found, applied, folder.mark()?)
        .map_err(|what| Error::damaged(folder.layout.log(), what))?;
    let memory = Memory::new(open::replay(&folder, applied, verdict.last)?);
    let scan = Scan::over(memory.snapshot(&[], &[]), &table, &[], &[], options.dir.clone());
    Ok(Export { scan, _table: table, _folder: folder })
}

impl Iterator for Export {
    type Item = Result<Exported, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (key, value) = match self.scan.next()? {
                Ok(item) => item,
                Err(error) => return Some(Err(error)),
            };
            let damaged = |what: String| Error::damaged(format!("record {key:?}"), what);
            return Some(match key.as_ref().first() {
                Some(&(space::LIVE | space::SETTLED)) => {
                    let record = id_of(key.as_ref())
                        .ok_or_else(|| damaged("its key is malformed".into()))
                        .and_then(|id| codec::decode_record(id, &value.body).map_err(|e| damaged(e.to_string())));
                    record.map(|record| Exported::Effect(Box::new(record)))
                }
                Some(&space::AUDIT) => audit_line((key, value))
                    .map(|(number, event)| Exported::Audit(number, event))
                    .map_err(|e| damaged(e.to_string())),
                // What the engine remembers of itself is of no use elsewhere.
                _ => continue,
            });
        }
    }
}
