//! `semel top`

mod samples;
mod table;

use std::io::IsTerminal as _;
use std::time::Duration;

use anstream::print;
use clap::Args;

use crate::Outcome;
use crate::admin_client::Target;
use crate::exit::{Exit, Failure};
use samples::Samples;

/// Show what a running gateway does now: its routes, and its upstreams' endpoints
#[derive(Debug, Args)]
pub(crate) struct Top {
    #[command(flatten)]
    target: Target,
    /// How often to look, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=3600))]
    interval: u16,
    /// Show one interval and end
    #[arg(long)]
    once: bool,
}

/// Home, and all below it gone.
const CLEAR: &str = "\x1b[H\x1b[2J";

impl Top {
    pub(crate) fn run(self) -> Outcome {
        let client = self.target.client()?;
        let interval = Duration::from_secs(self.interval.into());
        let is_live = !self.once && std::io::stdout().is_terminal();
        let look = || -> Result<Samples, Failure> { Ok(Samples::parse(&client.metrics()?)) };
        let mut before = look()?;
        if is_live {
            print!("{CLEAR}looking at {} for {} s …\n", client.address(), self.interval);
        }
        loop {
            pause(interval)?;
            let now = look()?;
            let text = table::render(&before, &now, interval);
            let head = format!("semel at {}, the last {} s", client.address(), self.interval);
            if is_live {
                print!("{CLEAR}{head}; ^C ends\n\n{text}");
            } else {
                print!("{head}\n\n{text}");
            }
            if self.once {
                return Ok(Exit::Done);
            }
            before = now;
        }
    }
}

fn pause(interval: Duration) -> Result<(), Failure> {
    crate::commands::runtime()?.block_on(async { tokio::time::sleep(interval).await });
    Ok(())
}
