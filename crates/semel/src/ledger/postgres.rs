//! The ledger in a PostgreSQL database.

use std::sync::Arc;

use semel_config::PostgresLedger as Config;
use semel_core::code::Code;
use semel_core::scope::LookupSecret;
use semel_ledger::Ledger;
use semel_ledger_postgres::{Error, Migrated, Options, PostgresLedger, Survey};

use crate::exit::{Exit, Failure};

/// Opens it for serving.
pub(super) async fn open(config: &Config) -> Result<Arc<dyn Ledger>, Failure> {
    let ledger = PostgresLedger::open(&options(config)?).await.map_err(|error| unusable(&error))?;
    Ok(Arc::new(ledger))
}

/// Makes its schema, with this secret if one is given, or brings it to this release.
pub(crate) async fn migrate(config: &Config, secret: Option<&LookupSecret>) -> Result<Migrated, Failure> {
    semel_ledger_postgres::migrate_with(&options(config)?, secret).await.map_err(|error| unusable(&error))
}

/// Looks at it without serving.
pub(crate) async fn survey(config: &Config) -> Result<Survey, Failure> {
    Survey::open(&options(config)?).await.map_err(|error| unusable(&error))
}

fn options(config: &Config) -> Result<Options, Failure> {
    let mut options = Options::new(config.url.expose());
    options.listen_url = config.listen_url.as_ref().map(|url| url.expose().to_owned());
    options.ca_file.clone_from(&config.ca_file);
    options.schema.clone_from(&config.schema);
    options.connections = config.connections;
    options.patience = config.patience;
    options.password = super::password(config.password_file.as_deref())?;
    Ok(options)
}

/// What went wrong, with the code of its remedy page.
pub(crate) fn unusable(error: &Error) -> Failure {
    let code = match error {
        Error::NotMigrated { .. } => Code::LEDGER_NOT_MIGRATED,
        Error::NotDurable(_) => Code::LEDGER_NOT_DURABLE,
        Error::Refused(_) => Code::LEDGER_REFUSED,
        _ => Code::LEDGER_UNREACHABLE,
    };
    let failure = Failure::new(Exit::LedgerUnusable, error.to_string()).code(code);
    if code == Code::LEDGER_NOT_MIGRATED { failure.help("`semel ledger migrate` makes or updates it") } else { failure }
}
