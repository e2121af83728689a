//! The ledger that the configuration names, whichever engine it is.

pub(crate) mod embedded;
pub(crate) mod nats;
pub(crate) mod postgres;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use semel_config::LedgerConfig;
use semel_core::code::Code;
use semel_core::effect::Owner;
use semel_core::scope::LookupSecret;
use semel_ledger::{Contract, Exported, Ledger};

use crate::commands::runtime;
use crate::exit::{Exit, Failure};

/// Opens the engine for serving.
pub(crate) async fn open(config: &LedgerConfig, owner: Owner) -> Result<Arc<dyn Ledger>, Failure> {
    match config {
        LedgerConfig::Embedded(config) => embedded::open(config, owner),
        LedgerConfig::Postgres(config) => postgres::open(config).await,
        LedgerConfig::Nats(config) => nats::open(config).await,
    }
}

/// Makes the ledger if there is none yet, so that it can take over the records of the one with this secret.
pub(crate) async fn make(config: &LedgerConfig, secret: &LookupSecret) -> Result<(), Failure> {
    match config {
        LedgerConfig::Embedded(config) => embedded::make(config, secret),
        LedgerConfig::Postgres(config) => postgres::migrate(config, Some(secret)).await.map(drop),
        LedgerConfig::Nats(config) => nats::migrate(config, Some(secret)).await.map(drop),
    }
}

/// Shows everything it holds, without changing anything; damaged records are failures in between.
pub(crate) fn read_all(
    config: &LedgerConfig,
    mut see: impl FnMut(Result<Exported, Failure>) -> ControlFlow<()>,
) -> Result<(), Failure> {
    match config {
        LedgerConfig::Embedded(config) => {
            for item in embedded::export(config)? {
                if see(item.map_err(|error| embedded::unusable(&error))).is_break() {
                    break;
                }
            }
        }
        LedgerConfig::Postgres(config) => {
            // Who sees it may block.
            let runtime = runtime()?;
            let mut survey = runtime.block_on(postgres::survey(config))?;
            while let Some(page) = runtime.block_on(survey.page()).map_err(|error| postgres::unusable(&error))? {
                if page.into_iter().any(|item| see(item.map_err(|damage| damaged(&damage))).is_break()) {
                    break;
                }
            }
        }
        LedgerConfig::Nats(config) => {
            // Who sees it may block.
            let runtime = runtime()?;
            let mut survey = runtime.block_on(nats::survey(config))?;
            while let Some(page) = runtime.block_on(survey.page()).map_err(|error| nats::unusable(&error))? {
                if page.into_iter().any(|item| see(item.map_err(|damage| damaged(&damage))).is_break()) {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// What the scopes meant when the ledger was last used; none while another process has an embedded one open.
pub(crate) fn contracts(config: &LedgerConfig) -> Result<Option<Vec<Contract>>, Failure> {
    match config {
        LedgerConfig::Embedded(config) => embedded::contracts(config),
        LedgerConfig::Postgres(config) => runtime()?.block_on(async {
            let survey = postgres::survey(config).await?;
            survey.contracts().await.map(Some).map_err(|error| postgres::unusable(&error))
        }),
        LedgerConfig::Nats(config) => runtime()?.block_on(async {
            let survey = nats::survey(config).await?;
            survey.contracts().await.map(Some).map_err(|error| nats::unusable(&error))
        }),
    }
}

fn damaged(damage: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::LedgerUnusable, damage.to_string()).code(Code::LEDGER_DAMAGED)
}

/// The password in a file.
pub(super) fn password(path: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let password = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(Exit::LedgerUnusable, format!("cannot read the password in {}: {error}", path.display()))
            .code(Code::LEDGER_UNREACHABLE)
    })?;
    Ok(Some(password.trim_end_matches(['\r', '\n']).to_owned()))
}

/// A command that this engine does not have.
pub(crate) fn wrong_engine(command: &str, engine: &str) -> Failure {
    Failure::new(Exit::Failed, format!("`semel ledger {command}` is for {engine}")).code(Code::WRONG_ENGINE)
}
