//! The one place that reads configuration files.

use std::path::PathBuf;

use anstream::eprint;
use clap::Args;
use semel_config::{Colour, Config, load};
use semel_core::code::Code;

use crate::exit::{Exit, Failure};

/// Which configuration file.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration file
    #[arg(
        short = 'c',
        long = "config",
        value_name = "FILE",
        default_value = "semel.toml",
        env = "SEMEL_CONFIG",
        hide_env_values = true
    )]
    pub(crate) path: PathBuf,
}

/// A file that cannot be used.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The code of the first finding.
    pub(crate) code: Code,
    /// Everything there is to say.
    pub(crate) report: String,
}

impl ConfigFile {
    /// Reads and validates the file; warnings come beside the configuration.
    pub(crate) fn read(&self, colour: Colour) -> Result<(Config, String), Refused> {
        let name = self.path.display().to_string();
        let text = std::fs::read_to_string(&self.path).map_err(|error| Refused {
            code: Code::CONFIG_UNREADABLE,
            report: format!("error[{}]: cannot read {name}: {error}\n", Code::CONFIG_UNREADABLE),
        })?;
        match load(&name, &text) {
            Ok((config, warnings)) => Ok((config, warnings.render(colour))),
            Err(report) => {
                let code = report.diagnostics().first().map_or(Code::CONFIG_SYNTAX, |first| first.code);
                Err(Refused { code, report: report.render(colour) })
            }
        }
    }

    /// Reads and validates the file. Findings go to standard error; `anstream` drops their colours where they would
    /// only be noise.
    pub(crate) fn load(&self) -> Result<Config, Failure> {
        let name = self.path.display();
        match self.read(Colour::On) {
            Ok((config, warnings)) => {
                eprint!("{warnings}");
                Ok(config)
            }
            Err(refused) => {
                eprint!("{}", refused.report);
                let failure = Failure::new(Exit::ConfigRefused, format!("{name} was refused"));
                Err(if refused.code == Code::CONFIG_UNREADABLE {
                    failure.help("`semel init` writes a commented file to start from; `-c FILE` names another")
                } else {
                    failure
                })
            }
        }
    }
}
