//! Opening the ledger that the configuration names.

use std::sync::Arc;

use semel_config::LedgerConfig;
use semel_core::effect::Owner;
use semel_ledger::Ledger;

use crate::exit::{Exit, Failure};

/// Opens the engine; errors carry the code of their remedy page.
pub(crate) fn open(config: &LedgerConfig, _owner: Owner) -> Result<Arc<dyn Ledger>, Failure> {
    let LedgerConfig::Embedded(_) = config;
    let ledger = semel_ledger::model::ModelLedger::new();
    let ledger = ledger.map_err(|error| Failure::new(Exit::LedgerUnusable, error.to_string()))?;
    Ok(Arc::new(ledger))
}
