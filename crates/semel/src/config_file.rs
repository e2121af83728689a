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

impl ConfigFile {
    /// Reads and validates the file. Findings go to standard error; `anstream` drops their colours where they would
    /// only be noise.
    pub(crate) fn load(&self) -> Result<Config, Failure> {
        let name = self.path.display().to_string();
        let text = std::fs::read_to_string(&self.path).map_err(|error| {
            Failure::new(Exit::ConfigRefused, format!("cannot read {name}: {error}"))
                .code(Code::CONFIG_UNREADABLE)
                .help("`semel init` writes a commented file to start from; `-c FILE` names another")
        })?;
        match load(&name, &text) {
            Ok((config, warnings)) => {
                eprint!("{}", warnings.render(Colour::On));
                Ok(config)
            }
            Err(report) => {
                eprint!("{}", report.render(Colour::On));
                Err(Failure::new(Exit::ConfigRefused, format!("{name} was refused")))
            }
        }
    }
}
