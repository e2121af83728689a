//! `semel effects settle` and `semel effects release`

use std::path::PathBuf;

use anstream::eprintln;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::{HeaderName, HeaderValue};
use semel_core::scope::EffectId;
use serde_json::{Value, json};

use super::show;
use crate::Outcome;
use crate::admin_client::{AdminClient, Target};
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
        self.change.post("settle", body)
    }
}

impl Release {
    pub(super) fn run(self) -> Outcome {
        self.change.post("release", json!({}))
    }
}

impl Change {
    fn post(&self, verb: &str, mut body: Value) -> Outcome {
        let client = self.target.client()?;
        body["fence"] = self.fence(&client)?;
        body["reason"] = self.reason.as_str().into();
        body["operator"] = self.operator.as_deref().into();
        let answer = client.post(&format!("/v1/effects/{}/{verb}", self.id), &body)?;
        eprintln!("{}", answer["result"].as_str().unwrap_or("done"));
        if let Some(effect) = answer.get("effect") {
            show::print(effect);
        }
        Ok(Exit::Done)
    }

    /// The claim that is meant: the one named, or the one that stands now.
    fn fence(&self, client: &AdminClient) -> Result<Value, Failure> {
        match self.fence {
            Some(fence) => Ok(fence.into()),
            None => Ok(client.get(&format!("/v1/effects/{}", self.id))?["fence"].clone()),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "an answer's body that the operator hands over")]
fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::new(Exit::Failed, format!("cannot read {}: {error}", path.display())))
}
