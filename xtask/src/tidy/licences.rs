//! Licences, sources and duplicates of every dependency.
//!
//! `deny.toml` says the same for cargo-deny; building cargo-deny takes longer than the whole of CI may, so CI checks
//! here, from `cargo metadata`, and the tables of `deny.toml` are the only copy: they are read from there.

use super::Findings;
use super::arrows::list;
use crate::run::root;
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) fn check(metadata: &Value) -> Findings {
    match std::fs::read_to_string(root().join("deny.toml")) {
        Ok(deny) => check_against(metadata, &Rules::read(&deny)),
        Err(error) => vec![format!("deny.toml cannot be read ({error}): it lists the licences we accept")],
    }
}

/// What `deny.toml` allows: the strings of its `allow` list under `[licenses]`, and the crates of its `skip` list.
struct Rules {
    licences: Vec<String>,
    skipped: Vec<String>,
}

impl Rules {
    /// Reads the two lists by their layout, one entry a line; cargo-deny reads the rest.
    fn read(deny: &str) -> Self {
        let entries = |list: &str| -> Vec<String> {
            let lines = deny.lines().map(str::trim).skip_while(|line| *line != format!("{list} = ["));
            let lines = lines.skip(1).take_while(|line| *line != "]");
            lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
        };
        Self { licences: entries("allow"), skipped: entries("skip") }
    }
}

fn check_against(metadata: &Value, rules: &Rules) -> Findings {
    let mut findings = Findings::new();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in list(&metadata["packages"]) {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let (name, version, licence) = (text("name"), text("version"), text("license"));
        versions.entry(name).or_default().push(version);
        if !allowed(licence, &rules.licences) {
            findings.push(format!("{name} {version} has the licence {licence:?}, which deny.toml does not allow"));
        }
        let source = package["source"].as_str();
        if source.is_some_and(|source| source != "registry+https://github.com/rust-lang/crates.io-index") {
            findings.push(format!("{name} {version} comes from {}: only the registry is allowed", text("source")));
        }
    }
    for (name, versions) in versions {
        if versions.len() > 1 && !rules.skipped.iter().any(|skip| skip == name) {
            let versions = versions.join(" and ");
            findings.push(format!("{name} is built twice ({versions}): align them, or give deny.toml's skip a reason"));
        }
    }
    findings
}

/// Whether an SPDX expression can be met by allowed licences (`/` is the old form of `OR`).
fn allowed(expression: &str, licences: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(&tokens, &mut at, licences);
    met && at == tokens.len()
}

fn any(tokens: &[&str], at: &mut usize, licences: &[String]) -> bool {
    let mut met = all(tokens, at, licences);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(tokens, at, licences);
    }
    met
}

fn all(tokens: &[&str], at: &mut usize, licences: &[String]) -> bool {
    let mut met = one(tokens, at, licences);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(tokens, at, licences);
    }
    met
}

fn one(tokens: &[&str], at: &mut usize, licences: &[String]) -> bool {
    let Some(token) = tokens.get(*at) else { return false };
    *at += 1;
    if *token == "(" {
        let met = any(tokens, at, licences);
        let closed = tokens.get(*at) == Some(&")");
        *at += usize::from(closed);
        return met && closed;
    }
    let with_exception = tokens.get(*at) == Some(&"WITH");
    *at += if with_exception { 2 } else { 0 };
    !with_exception && licences.iter().any(|licence| licence == token)
}

#[cfg(test)]
mod tests {
    use super::{Rules, allowed, check_against};
    use serde_json::json;

    const DENY: &str =
        "[licenses]\nallow = [\n  \"MIT\",\n  \"Unicode-3.0\",\n]\n[bans]\nskip = [\n  { crate = \"syn\" },\n]\n";

    #[test]
    fn expressions_are_met_only_by_allowed_licences() {
        let licences = Rules::read(DENY).licences;
        let cases = [
            ("MIT", true),
            ("MIT/GPL-3.0", true),
            ("MIT OR LGPL-2.1-or-later", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("MIT AND GPL-3.0", false),
            ("GPL-3.0", false),
            ("Apache-2.0 WITH LLVM-exception OR MIT", true),
            ("", false),
            ("(MIT", false),
        ];
        for (expression, fine) in cases {
            assert_eq!(allowed(expression, &licences), fine, "{expression}");
        }
    }

    #[test]
    fn foreign_sources_and_duplicates_are_found() {
        let package = |name: &str, source: Option<&str>| json!({ "name": name, "version": "1", "license": "MIT", "source": source });
        let twice =
            json!({ "packages": [package("a", None), package("a", None), package("syn", None), package("syn", None)] });
        assert_eq!(check_against(&twice, &Rules::read(DENY)).len(), 1);
        let git = json!({ "packages": [package("a", Some("git+https://example.org/a"))] });
        assert_eq!(check_against(&git, &Rules::read(DENY)).len(), 1);
    }
}
