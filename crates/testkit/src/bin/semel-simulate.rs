//! Writes the plots of the policies' simulations: `semel-simulate FOLDER`.
#![allow(clippy::disallowed_methods, reason = "a tool of the documentation writes its files")]

use std::{path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("error: say where the plots go: semel-simulate FOLDER");
        return ExitCode::FAILURE;
    };
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        for (name, svg) in semel_testkit::policy_simulation::figures() {
            std::fs::write(folder.join(name).with_extension("svg"), svg)?;
        }
        Ok(())
    };
    match write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the plots cannot be written to {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}
