//! The ledger in a folder of this machine.

use std::sync::Arc;

use semel_config::EmbeddedLedger as Config;
use semel_core::code::Code;
use semel_core::effect::{Authority, Owner};
use semel_core::scope::LookupSecret;
use semel_ledger::{Clock as _, Contract, Ledger, SystemClock};
use semel_ledger_embedded::{EmbeddedLedger, Error, Export, Options, Repair, Verification};

use crate::exit::{Exit, Failure};

/// Opens the engine for serving.
pub(super) fn open(config: &Config, owner: Owner) -> Result<Arc<dyn Ledger>, Failure> {
    let ledger = EmbeddedLedger::open(options(config), owner).map_err(|error| unusable(&error))?;
    Ok(Arc::new(ledger))
}

/// Makes it, with this secret, if there is none yet.
pub(super) fn make(config: &Config, secret: &LookupSecret) -> Result<(), Failure> {
    let mut options = options(config);
    options.secret = Some(*secret.expose());
    let owner = Owner(getrandom::u64().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?);
    EmbeddedLedger::open(options, owner).map(drop).map_err(|error| unusable(&error))
}

/// Reads all of it without changing anything. `None` while another process has it open, which is then the one to ask.
pub(crate) fn verify(config: &Config) -> Result<Option<Verification>, Failure> {
    match semel_ledger_embedded::verify(&options(config)) {
        Ok(verification) => Ok(Some(verification)),
        Err(Error::Locked { .. }) => Ok(None),
        Err(error) => Err(unusable(&error)),
    }
}

/// Reads every record without changing anything, oldest damage included as an error in its place.
pub(super) fn export(config: &Config) -> Result<Export, Failure> {
    semel_ledger_embedded::export(&options(config)).map_err(|error| unusable(&error))
}

/// What the scopes meant when the ledger was last used; none while another process has it open.
pub(super) fn contracts(config: &Config) -> Result<Option<Vec<Contract>>, Failure> {
    match semel_ledger_embedded::contracts(&options(config)) {
        Ok(contracts) => Ok(Some(contracts)),
        Err(Error::Locked { .. }) => Ok(None),
        Err(error) => Err(unusable(&error)),
    }
}

/// Makes it usable again without what is lost; audited in the ledger itself.
pub(crate) fn repair(config: &Config, by: Authority) -> Result<Repair, Failure> {
    let now = SystemClock::start().now();
    semel_ledger_embedded::repair_accepting_loss(&options(config), by, now).map_err(|error| unusable(&error))
}

/// Whether there is a ledger yet.
pub(crate) fn exists(config: &Config) -> bool {
    std::fs::read_dir(&config.path).is_ok_and(|mut entries| entries.next().is_some())
}

fn options(config: &Config) -> Options {
    let mut options = Options::new(&config.path);
    options.disk_reserve_bytes = config.disk_reserve_bytes;
    options
}

/// What went wrong, with the code of its remedy page.
pub(super) fn unusable(error: &Error) -> Failure {
    let code = match error {
        Error::Locked { .. } => Code::LEDGER_LOCKED,
        Error::NotALedger { .. } => Code::NOT_A_LEDGER,
        Error::Damaged(_) => Code::LEDGER_DAMAGED,
        Error::Stopped { .. } => Code::LEDGER_STOPPED,
        Error::DiskFull => Code::LEDGER_DISK_LOW,
        other if other.is_disk_full() => Code::LEDGER_DISK_LOW,
        _ => Code::LEDGER_UNUSABLE,
    };
    Failure::new(Exit::LedgerUnusable, error.to_string()).code(code)
}
