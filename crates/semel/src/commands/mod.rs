//! One file per subcommand.

pub(crate) mod check;
pub(crate) mod copy;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod effects;
pub(crate) mod explain;
pub(crate) mod init;
pub(crate) mod ledger;
pub(crate) mod limits;
pub(crate) mod reload;
pub(crate) mod run;
pub(crate) mod top;

use crate::exit::{Exit, Failure};

/// For signals, reloads and the admin API; the gateway has runtimes of its own.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(Exit::Failed, format!("a runtime cannot be started: {error}")))
}
