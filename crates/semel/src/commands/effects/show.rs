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

/// The effect in one line: what a person must see before deciding about it.
pub(super) fn line(effect: &Value) -> String {
    let text = |key: &str| effect[key].as_str();
    let since = match (text("unknown_since"), text("unknown_reason")) {
        (Some(since), Some(why)) => format!(" since {since} ({why})"),
        _ => String::new(),
    };
    let [id, state, scope, upstream] = ["effect_id", "state", "scope", "upstream"].map(|key| text(key).unwrap_or("?"));
    let (attempts, fence) = (&effect["attempts"], &effect["fence"]);
    format!("{id}: {state}{since}, scope {scope}, upstream {upstream}, attempts {attempts}, fence {fence}")
}

/// Every value on a line of its own; the answer last.
pub(super) fn print(effect: &Value) {
    for (key, value) in effect.as_object().into_iter().flatten() {
        match key.as_str() {
            "answer" => {}
            "settled_by" => println!("{key:<15} {}", who(value)),
            _ => println!("{key:<15} {}", plain(value)),
        }
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

/// Who, and why where they said so.
pub(super) fn who(by: &Value) -> String {
    let name = by["name"].as_str().or(by["authority"].as_str()).unwrap_or("?");
    by["reason"].as_str().map_or_else(|| name.to_owned(), |reason| format!("{name}: {reason}"))
}

/// As text that cannot move the cursor: an upstream wrote some of it.
fn plain(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let shown = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().map(|c| if shown(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}
