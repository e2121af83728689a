//! `semel reload`

use anstream::{eprint, eprintln};
use clap::Args;
use serde_json::json;

use crate::Outcome;
use crate::admin_client::Target;
use crate::exit::Exit;

/// Let a running gateway load its configuration again; a bad one leaves the old in force
#[derive(Debug, Args)]
pub(crate) struct Reload {
    #[command(flatten)]
    target: Target,
    /// Why, for the log
    #[arg(long, default_value = "semel reload")]
    reason: String,
    /// Who, for the log
    #[arg(long, value_name = "NAME", env = "USER", hide_env_values = true)]
    operator: Option<String>,
}

impl Reload {
    pub(crate) fn run(self) -> Outcome {
        let body = json!({ "reason": self.reason, "operator": self.operator });
        let answer = self.target.client()?.post("/v1/reload", &body)?;
        eprint!("{}", answer["notes"].as_str().unwrap_or_default());
        eprintln!("reloaded");
        Ok(Exit::Done)
    }
}
