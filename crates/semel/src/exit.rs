//! How the process ends: exit codes, which are part of the interface, and errors as text.

use std::process::ExitCode;

use anstream::eprintln;
use semel_core::code::Code;

/// For `--help`.
pub(crate) const TABLE: &str = "\
Exit codes:
  0  done
  1  failed: input or output, or an error inside semel
  2  wrong command line
  3  the configuration was refused
  4  the ledger cannot be used
  5  an upstream cannot be reached
  6  not found: no such route, effect or code
  7  the gateway refused: wrong token, or the effect's state forbids it";

/// How the process ends. Code 2 is clap's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    ConfigRefused = 3,
    LedgerUnusable = 4,
    UpstreamUnreachable = 5,
    NotFound = 6,
    Refused = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed, for a person.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    exit: Exit,
    code: Option<Code>,
    message: String,
    help: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, code: None, message: message.into(), help: None }
    }

    /// With the code of a remedy page.
    pub(crate) fn code(self, code: Code) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The code of the remedy page, or `otherwise` where there is none.
    pub(crate) fn code_or(&self, otherwise: Code) -> Code {
        self.code.unwrap_or(otherwise)
    }

    /// With a word on what to do.
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Tells the person and yields the exit code.
    pub(crate) fn report(&self) -> Exit {
        let code = self.code.map(|code| format!("[{code}]")).unwrap_or_default();
        eprintln!("\x1b[1;31merror{code}\x1b[0m: {}", self.message);
        if let Some(help) = &self.help {
            eprintln!("  = {help}");
        }
        if let Some(code) = self.code {
            eprintln!("  = `semel explain {code}` tells more");
        }
        self.exit
    }
}
