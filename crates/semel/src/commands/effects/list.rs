//! `semel effects list` and `semel effects audit`

use anstream::{eprintln, println};
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::show;
use crate::Outcome;
use crate::admin_client::{AdminClient, Target};
use crate::exit::{Exit, Failure};

/// Entries asked for at a time.
const PAGE: usize = 500;

/// List open and unknown effects
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    target: Target,
    /// Only effects in this state
    #[arg(long)]
    state: Option<State>,
    /// Only effects of this scope
    #[arg(long)]
    scope: Option<String>,
    /// Show so many at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    /// Being executed under a lease
    Open,
    /// Nobody knows what happened
    Unknown,
}

impl List {
    pub(super) fn run(self) -> Outcome {
        let client = self.target.client()?;
        let mut filter = String::new();
        if let Some(state) = self.state {
            filter += match state {
                State::Open => "&state=open",
                State::Unknown => "&state=unknown",
            };
        }
        if let Some(scope) = &self.scope {
            semel_config::check_name(scope)
                .map_err(|why| Failure::new(Exit::NotFound, format!("{scope:?} is no scope: {why}")))?;
            filter += &format!("&scope={scope}");
        }
        let (effects, more) = self.read(&client, &filter)?;
        if self.json {
            effects.iter().for_each(|effect| println!("{effect}"));
        } else {
            table(&effects);
        }
        if more {
            eprintln!("there are more: --limit shows them");
        }
        Ok(Exit::Done)
    }

    fn read(&self, client: &AdminClient, filter: &str) -> Result<(Vec<Value>, bool), Failure> {
        let mut effects = Vec::new();
        let mut after = String::new();
        loop {
            let page = PAGE.min(self.limit - effects.len());
            if page == 0 {
                return Ok((effects, true));
            }
            let answer = client.get(&format!("/v1/effects?limit={page}{filter}{after}"))?;
            effects.extend(answer["effects"].as_array().into_iter().flatten().cloned());
            let Some(next) = answer["next"].as_str() else { return Ok((effects, false)) };
            after = format!("&after={next}");
        }
    }
}

fn table(effects: &[Value]) {
    if effects.is_empty() {
        eprintln!("no effect is open or unknown");
        return;
    }
    println!("{:<29}  {:<8}  {:<24}  {:<16}  {:>8}  SCOPE", "EFFECT", "STATE", "SINCE", "WHY", "ATTEMPTS");
    for effect in effects {
        let text = |key: &str| effect[key].as_str().unwrap_or("-");
        let since = effect["unknown_since"].as_str().unwrap_or_else(|| text("claimed_at"));
        let (id, state, why) = (text("effect_id"), text("state"), text("unknown_reason"));
        let attempts = effect["attempts"].as_u64().unwrap_or_default();
        println!("{id:<29}  {state:<8}  {since:<24}  {why:<16}  {attempts:>8}  {}", text("scope"));
    }
}

/// List what operators, upstreams and probes did, and what contradicted the ledger
#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(flatten)]
    target: Target,
    /// Only lines behind this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    /// Show so many at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

impl Audit {
    pub(super) fn run(self) -> Outcome {
        let client = self.target.client()?;
        let (mut after, mut left) = (self.after, self.limit);
        if !self.json {
            println!("{:>12}  {:<24}  {:<29}  {:<12}  BY", "NUMBER", "WHEN", "EFFECT", "WHAT");
        }
        while left > 0 {
            let page = PAGE.min(left);
            let answer = client.get(&format!("/v1/audit?limit={page}&after={after}"))?;
            let events = answer["events"].as_array().map_or(&[][..], Vec::as_slice);
            if self.json {
                events.iter().for_each(|event| println!("{event}"));
            } else {
                events.iter().for_each(audit_line);
            }
            left = left.saturating_sub(events.len());
            let next = answer["next"].as_str().and_then(|next| next.parse().ok()).unwrap_or(after);
            if events.len() < page || next == after {
                break;
            }
            after = next;
        }
        Ok(Exit::Done)
    }
}

fn audit_line(event: &Value) {
    let text = |key: &str| event[key].as_str().filter(|text| !text.is_empty());
    let [at, id, kind] = ["at", "effect_id", "kind"].map(|key| text(key).unwrap_or("-"));
    let detail = text("detail").map(|detail| format!(" ({detail})")).unwrap_or_default();
    println!(
        "{number:>12}  {at:<24}  {id:<29}  {kind:<12}  {}{detail}",
        show::who(&event["by"]),
        number = text("number").unwrap_or("-")
    );
}
