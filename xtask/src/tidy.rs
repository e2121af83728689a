//! `cargo xtask tidy`: the rules of the house that no compiler checks.

mod arrows;
mod licences;
mod pages;
mod rooms;

use crate::run::{Outcome, cargo, output, root};
use serde_json::Value;
use std::path::PathBuf;

/// What a rule found: one line each, saying what, where and what to do.
pub(crate) type Findings = Vec<String>;

/// Every file of the project that git knows or would add, with its text (binary files are left out).
pub(crate) struct Sources {
    pub(crate) root: PathBuf,
    pub(crate) files: Vec<(String, String)>,
}

/// Runs every rule and prints all findings.
pub(crate) fn tidy() -> Outcome {
    let sources = sources()?;
    let metadata = cargo(&["metadata", "--format-version", "1", "--locked"]).env("CARGO_TERM_QUIET", "true").output();
    let metadata = metadata.map_err(|error| format!("cargo metadata did not start: {error}"))?;
    let metadata: Value = serde_json::from_slice(&metadata.stdout)
        .map_err(|_| format!("cargo metadata failed: {}", String::from_utf8_lossy(&metadata.stderr).trim()))?;
    let mut findings = Findings::new();
    findings.extend(arrows::check(&metadata));
    findings.extend(licences::check(&metadata));
    findings.extend(rooms::check(&sources));
    findings.extend(pages::check(&sources));
    if findings.is_empty() {
        println!("tidy: {} files, no findings", sources.files.len());
        return Ok(());
    }
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    Err(format!("tidy has {} findings", findings.len()))
}

fn sources() -> Outcome<Sources> {
    let root = root();
    let mut git = std::process::Command::new("git");
    let names = output(git.current_dir(&root).args(["ls-files", "-co", "--exclude-standard"]))?;
    let files = names.lines().filter_map(|name| {
        let text = std::fs::read_to_string(root.join(name)).ok()?;
        Some((name.to_owned(), text))
    });
    Ok(Sources { files: files.collect(), root })
}
