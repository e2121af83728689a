//! `semel effects`

mod change;
mod list;
mod show;

use clap::{Args, Subcommand};

use crate::Outcome;
use crate::exit;

/// Look at effects and decide about unknown ones, through a running gateway
#[derive(Debug, Args)]
#[command(after_help = exit::TABLE)]
pub(crate) struct Effects {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(list::List),
    Show(show::Show),
    Settle(change::Settle),
    Release(change::Release),
    Audit(list::Audit),
}

impl Effects {
    pub(crate) fn run(self) -> Outcome {
        match self.action {
            Action::List(list) => list.run(),
            Action::Show(show) => show.run(),
            Action::Settle(settle) => settle.run(),
            Action::Release(release) => release.run(),
            Action::Audit(audit) => audit.run(),
        }
    }
}
