//! `semel effects show`

use anstream::println;
use clap::Args;
use semel_core::scope::EffectId;
use serde_json::Value;

use crate::Outcome;
use crate::admin_client::Target;
use crate::exit::Exit;

/// Show one effect in any state
#[derive(Debug, Args)]
pub(super) struct Show {
    /// The effect, from a Semel-Effect-Id header
    id: EffectId,
    #[command(flatten)]
    target: Target,
    /// Show the kept answer's body, too
    #[arg(long)]
    body: bool,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) fn run(self) -> Outcome {
        let body = if self.body { "?body=true" } else { "" };
        let effect = self.target.client()?.get(&format!("/v1/effects/{}{body}", self.id))?;
        if self.json {
            println!("{effect:#}");
        } else {
            print(&effect);
        }
        Ok(Exit::Done)
    }
}

/// Every value on a line of its own; the answer last.
pub(super) fn print(effect: &Value) {
    for (key, value) in effect.as_object().into_iter().flatten().filter(|(key, _)| *key != "answer") {
        println!("{key:<15} {}", plain(value));
    }
    let Some(answer) = effect.get("answer") else { return };
    println!("{:<15} {}", "answer", plain(&answer["status"]));
    for header in answer["headers"].as_array().into_iter().flatten() {
        println!("{:<15} {}: {}", "", plain(&header["name"]), plain(&header["value"]));
    }
    for key in ["body_bytes", "body_sha256", "body", "body_base64"] {
        if let Some(value) = answer.get(key) {
            println!("{key:<15} {}", plain(value));
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
