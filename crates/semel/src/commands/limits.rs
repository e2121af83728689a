//! `semel limits`

use anstream::{eprintln, println};
use clap::Args;
use serde_json::Value;

use crate::Outcome;
use crate::admin_client::Target;
use crate::exit::Exit;

/// Show who is over a rate limit of a running gateway, most often refused first
#[derive(Debug, Args)]
pub(crate) struct Limits {
    #[command(flatten)]
    target: Target,
    /// Show so many at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: u16,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

impl Limits {
    pub(crate) fn run(self) -> Outcome {
        let answer = self.target.client()?.get(&format!("/v1/limits?limit={}", self.limit))?;
        let limited = answer["limited"].as_array().map(Vec::as_slice).unwrap_or_default();
        if self.json {
            limited.iter().for_each(|one| println!("{one}"));
        } else if limited.is_empty() {
            eprintln!("nobody is over a limit");
        } else {
            table(limited);
        }
        Ok(Exit::Done)
    }
}

fn table(limited: &[Value]) {
    println!("{:<28}  {:>8}  {:>8}  {:>9}  {:<24}  ROUTE", "WHO", "REFUSED", "LEFT", "WAIT", "LIMIT");
    for one in limited {
        let text = |key: &str| one[key].as_str().unwrap_or("-");
        let number = |key: &str| one[key].as_u64().unwrap_or_default();
        let wait = format!("{:.1} s", number("wait_ms") as f64 / 1e3);
        let (who, limit, route) = (text("who"), text("limit"), text("route"));
        println!("{who:<28}  {:>8}  {:>8}  {wait:>9}  {limit:<24}  {route}", number("refused"), number("left"));
    }
}
