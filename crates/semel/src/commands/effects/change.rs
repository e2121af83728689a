//! `semel effects settle` and `semel effects release`

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::PathBuf;

use anstream::{eprint, eprintln, println};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::{HeaderName, HeaderValue};
use semel_core::scope::EffectId;
use serde_json::{Value, json};

use super::show;
use crate::Outcome;
use crate::admin_client::Target;
use crate::commands::explain::header;
use crate::exit::{Exit, Failure};

/// What every change needs.
#[derive(Debug, Args)]
struct Change {
    /// The effect, from a Semel-Effect-Id header
    id: EffectId,
    /// Why, for the audit log
    #[arg(long)]
    reason: String,
    /// Who, for the audit log
    #[arg(long, value_name = "NAME", env = "USER", hide_env_values = true)]
    operator: Option<String>,
    /// Only if the effect's claim is still this one (`semel effects show`)
    #[arg(long, value_name = "NUMBER")]
    fence: Option<u64>,
    /// Do not ask before doing it; without a terminal nothing is asked
    #[arg(long)]
    yes: bool,
    /// The answer as JSON on standard output instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Say that an unknown effect was executed, and with which answer: duplicates will get it
#[derive(Debug, Args)]
pub(super) struct Settle {
    #[command(flatten)]
    change: Change,
    /// The answer's status
    #[arg(long, value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
    /// A header of the answer (may be repeated)
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The answer's body
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["body_file", "consumed"])]
    body: Option<String>,
    /// A file with the answer's body
    #[arg(long, value_name = "FILE", conflicts_with = "consumed")]
    body_file: Option<PathBuf>,
    /// The answer is not known: duplicates get 409 instead
    #[arg(long)]
    consumed: bool,
}

/// Say that an unknown effect was not executed and never will be: its key becomes usable again
///
/// Be sure: if the upstream executes it after all, a retry executes it twice.
#[derive(Debug, Args)]
pub(super) struct Release {
    #[command(flatten)]
    change: Change,
}

impl Settle {
    pub(super) fn run(self) -> Outcome {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| json!({ "name": name.as_str(), "value": String::from_utf8_lossy(value.as_bytes()) }));
        let mut body = json!({
            "status": self.status,
            "headers": headers.collect::<Vec<_>>(),
            "consumed": self.consumed,
        });
        if let Some(text) = &self.body {
            body["body"] = text.as_str().into();
        } else if let Some(path) = &self.body_file {
            body["body_base64"] = STANDARD.encode(read(path)?).into();
        }
        let kept = if self.consumed { ", without its answer" } else { "" };
        let means = format!("duplicates get status {} from now on{kept}; they never run it again", self.status);
        self.change.post("settle", &means, body)
    }
}

impl Release {
    pub(super) fn run(self) -> Outcome {
        let means = "the next request with its key executes it; if it was executed after all, a second time";
        self.change.post("release", means, json!({}))
    }
}

impl Change {
    /// Looks at the effect, says what is about to happen to it, asks, and does it to what was looked at: if another
    /// claim holds the effect by then, the gateway refuses.
    fn post(&self, verb: &str, means: &str, mut body: Value) -> Outcome {
        let client = self.target.client()?;
        client.token()?;
        let effect = client.get(&format!("/v1/effects/{}", self.id))?;
        let fence = self.fence.map_or_else(|| effect["fence"].clone(), Value::from);
        eprintln!("{verb} {}", show::line(&effect));
        eprintln!("  means    {means}");
        eprintln!("  reason   {}", self.reason);
        if !self.yes && !agreed()? {
            return Err(Failure::new(Exit::Failed, "nothing was changed"));
        }
        body["fence"] = fence;
        body["reason"] = self.reason.as_str().into();
        body["operator"] = self.operator.as_deref().filter(|name| !name.is_empty()).into();
        let answer = client.post(&format!("/v1/effects/{}/{verb}", self.id), &body)?;
        if self.json {
            println!("{answer:#}");
            return Ok(Exit::Done);
        }
        eprintln!("{}", answer["result"].as_str().unwrap_or("done"));
        if let Some(effect) = answer.get("effect") {
            show::print(effect);
        }
        Ok(Exit::Done)
    }
}

/// Asks a person; a program said what it wants by calling.
fn agreed() -> Result<bool, Failure> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Ok(true);
    }
    eprint!("Do it? [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().lock().take(100).read_line(&mut answer);
    read.map_err(|error| Failure::new(Exit::Failed, format!("cannot read your answer: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[expect(clippy::disallowed_methods, reason = "an answer's body that the operator hands over")]
fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::new(Exit::Failed, format!("cannot read {}: {error}", path.display())))
}
