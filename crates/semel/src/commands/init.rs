//! `semel init`

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use anstream::{eprintln, print};
use clap::Args;
use semel_config::STARTER;

use crate::Outcome;
use crate::exit::{Exit, Failure};

/// Write a commented configuration file to start from
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where to; `-` is standard output
    #[arg(default_value = "semel.toml", value_name = "FILE")]
    path: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

impl Init {
    pub(crate) fn run(self) -> Outcome {
        if self.path.as_os_str() == "-" {
            print!("{STARTER}");
            return Ok(Exit::Done);
        }
        let name = self.path.display();
        let mut options = OpenOptions::new();
        options.write(true).create_new(!self.force).create(self.force).truncate(self.force);
        let written = options.open(&self.path).and_then(|mut file| file.write_all(STARTER.as_bytes()));
        written.map_err(|error| {
            let failure = Failure::new(Exit::Failed, format!("cannot write {name}: {error}"));
            if error.kind() == ErrorKind::AlreadyExists {
                failure.help("`--force` replaces it; `semel init -` prints to standard output")
            } else {
                failure
            }
        })?;
        eprintln!("wrote {name}");
        eprintln!("next: set the upstream's URL, then `semel check -c {name}` and `semel run -c {name}`");
        Ok(Exit::Done)
    }
}
