//! The ledger in a stream of NATS JetStream.

use std::sync::Arc;

use semel_config::NatsLedger as Config;
use semel_core::code::Code;
use semel_core::scope::LookupSecret;
use semel_ledger::Ledger;
use semel_ledger_nats::{Error, Migrated, NatsLedger, Options, Survey};

use crate::exit::{Exit, Failure};

/// Opens it for serving.
pub(super) async fn open(config: &Config) -> Result<Arc<dyn Ledger>, Failure> {
    let ledger = NatsLedger::open(&options(config)?).await.map_err(|error| unusable(&error))?;
    Ok(Arc::new(ledger))
}

/// Makes its stream, with this secret if one is given.
pub(crate) async fn migrate(config: &Config, secret: Option<&LookupSecret>) -> Result<Migrated, Failure> {
    semel_ledger_nats::migrate_with(&options(config)?, secret).await.map_err(|error| unusable(&error))
}

/// Looks at it without serving.
pub(crate) async fn survey(config: &Config) -> Result<Survey, Failure> {
    Survey::open(&options(config)?).await.map_err(|error| unusable(&error))
}

fn options(config: &Config) -> Result<Options, Failure> {
    let mut options = Options::new(config.url.expose());
    options.password = super::password(config.password_file.as_deref())?;
    options.ca_file.clone_from(&config.ca_file);
    options.system_url = config.system_url.as_ref().map(|url| url.expose().to_owned());
    options.stream.clone_from(&config.stream);
    options.replicas = config.replicas;
    options.patience = config.patience;
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
    if code == Code::LEDGER_NOT_MIGRATED { failure.help("`semel ledger migrate` makes it") } else { failure }
}
