//! Where log lines go: standard error, human on a terminal, JSON otherwise.

use std::io::IsTerminal as _;

use semel_config::{Log, LogFormat};
use semel_core::code::Code;
use tracing_subscriber::EnvFilter;

use crate::exit::{Exit, Failure};

/// Reads the filter; `semel check` calls it too.
pub(crate) fn filter(log: &Log) -> Result<EnvFilter, Failure> {
    EnvFilter::try_new(&log.filter).map_err(|error| {
        let message = format!("`log.filter` {:?} cannot be used: {error}", log.filter);
        Failure::new(Exit::ConfigRefused, message).code(Code::INVALID_VALUE)
    })
}

/// Starts logging. Once per process.
pub(crate) fn start(log: &Log) -> Result<(), Failure> {
    let terminal = std::io::stderr().is_terminal();
    let human = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter(log)?).with_writer(std::io::stderr);
    let started = if human {
        lines.with_ansi(terminal).with_target(false).try_init()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    started.map_err(|error| Failure::new(Exit::Failed, format!("cannot start logging: {error}")))
}
