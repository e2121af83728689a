//! Everything a ledger folder holds, record by record.

use crate::{
    Error,
    ledger::{audit_line, contracts_key, id_of},
    log::scan as log_scan,
    store::{
        Options, Scan,
        memory::Memory,
        open::{self, Folder},
        space,
    },
    table::Table,
};
use semel_ledger::{Contract, Exported, codec};
use std::collections::BTreeMap;

/// The records of a ledger folder: live effects first, then the others, then the audit log, each in the order of
/// their ids, and the scopes' contracts at the end. Damaged records are errors in between.
pub struct Export {
    scan: Scan,
    contracts: std::vec::IntoIter<Contract>,
    // Kept to the end: the folder is locked by it, and the scan reads its tables.
    _table: Table,
    _folder: Folder,
}

/// Reads a ledger folder that nobody has open, without changing it.
///
/// # Errors
/// As opening the ledger: what refuses to start is not exported. See [`crate::verify()`].
pub fn export(options: &Options) -> Result<Export, Error> {
    scan(options, &[])
}

/// What the scopes mean in a ledger folder that nobody has open: reads no effect, and changes nothing.
///
/// # Errors
/// As opening the ledger.
pub fn contracts(options: &Options) -> Result<Vec<Contract>, Error> {
    let mut found = Vec::new();
    for item in scan(options, contracts_key().as_ref())? {
        if let Exported::Contract(contract) = item? {
            found.push(contract);
        }
    }
    Ok(found)
}

fn scan(options: &Options, prefix: &[u8]) -> Result<Export, Error> {
    let folder = open::lock_folder(options)?;
    let table = Table::open(&folder.layout.table(), false, options.sizes(), options.sweeper.clone())?;
    let applied = table.applied()?;
    let verdict = log_scan::judge(&folder.found, applied, folder.mark()?)
        .map_err(|what| Error::damaged(folder.layout.log(), what))?;
    let memory = Memory::new(open::replay(&folder, applied, verdict.last)?);
    let scan = Scan::over(memory.snapshot(prefix, &[]), &table, prefix, &[], options.dir.clone());
    Ok(Export { scan, contracts: Vec::new().into_iter(), _table: table, _folder: folder })
}

impl Iterator for Export {
    type Item = Result<Exported, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(contract) = self.contracts.next() {
                return Some(Ok(Exported::Contract(contract)));
            }
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
                _ if key.as_ref() == contracts_key().as_ref() => match read_contracts(&value.body) {
                    Ok(contracts) => {
                        self.contracts = contracts.into_iter();
                        continue;
                    }
                    Err(error) => Err(damaged(error.to_string())),
                },
                // What the engine remembers of itself is of no use elsewhere.
                _ => continue,
            });
        }
    }
}

fn read_contracts(bytes: &[u8]) -> Result<Vec<Contract>, minicbor::decode::Error> {
    let held: BTreeMap<Box<str>, Vec<u8>> = minicbor::decode(bytes)?;
    Ok(held.into_iter().map(|(scope, terms)| Contract { scope, terms }).collect())
}
