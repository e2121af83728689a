//! Which crate may depend on which.

use super::Findings;
use serde_json::Value;

/// The whole table: a crate and the crates of this workspace it may depend on. The binary may use all.
const ARROWS: &[(&str, &[&str])] = &[
    ("semel-core", &[]),
    ("semel-ledger", &["semel-core"]),
    ("semel-ledger-embedded", &["semel-core", "semel-ledger"]),
    ("semel-ledger-postgres", &["semel-core", "semel-ledger"]),
    ("semel-ledger-nats", &["semel-core", "semel-ledger"]),
    ("semel-tower", &["semel-core", "semel-ledger"]),
    ("semel-config", &["semel-core"]),
    ("semel-gateway", &["semel-core", "semel-tower", "semel-config", "semel-ledger"]),
    ("semel-admin", &["semel-core", "semel-config", "semel-ledger"]),
    ("semel-testkit", &["semel-core", "semel-ledger"]),
    ("semel-bench", &["semel-core", "semel-tower"]),
    ("xtask", &[]),
    (
        "semel",
        &[
            "semel-core",
            "semel-ledger",
            "semel-ledger-embedded",
            "semel-ledger-postgres",
            "semel-ledger-nats",
            "semel-tower",
            "semel-config",
            "semel-gateway",
            "semel-admin",
        ],
    ),
];

/// What every crate may use in its tests and examples besides: the test parts, the engine-neutral ledger, and the engine
/// that needs no server.
const IN_TESTS: &[&str] = &["semel-testkit", "semel-ledger", "semel-ledger-embedded"];

/// Crates that must stay free of I/O: they may not depend, outside tests, on these.
const PURE: &[(&str, &[&str])] = &[("semel-core", &["tokio", "hyper", "getrandom", "rand", "mio", "rustix"])];

pub(super) fn check(metadata: &Value) -> Findings {
    let mut findings = Findings::new();
    let members: Vec<&str> = list(&metadata["workspace_members"]).filter_map(Value::as_str).collect();
    for package in list(&metadata["packages"]) {
        if !package["id"].as_str().is_some_and(|id| members.contains(&id)) {
            continue;
        }
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            findings.push(format!("crate {name} has no row in xtask/src/tidy/arrows.rs: say what it may depend on"));
            continue;
        };
        for dependency in list(&package["dependencies"]) {
            let to = dependency["name"].as_str().unwrap_or_default();
            let in_tests = dependency["kind"].as_str() == Some("dev");
            let ours = ARROWS.iter().any(|(from, _)| *from == to);
            let fine = allowed.contains(&to) || (in_tests && IN_TESTS.contains(&to)) || (name == "semel" && in_tests);
            if ours && !fine {
                findings.push(format!("crate {name} depends on {to}: that arrow is not in the architecture"));
            }
            let pure = PURE.iter().find(|(from, _)| *from == name);
            if !in_tests && pure.is_some_and(|(_, banned)| banned.contains(&to)) {
                findings.push(format!("crate {name} is pure and depends on {to}: move that part into a shell"));
            }
        }
    }
    findings
}

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::check;
    use serde_json::json;

    fn package(name: &str, to: &str, kind: Option<&str>) -> serde_json::Value {
        json!({
            "workspace_members": ["here"],
            "packages": [{ "id": "here", "name": name, "dependencies": [{ "name": to, "kind": kind }] }],
        })
    }

    #[test]
    fn a_wrong_arrow_is_found_and_a_right_one_is_not() {
        assert_eq!(check(&package("semel-gateway", "semel-tower", None)).len(), 0);
        assert_eq!(check(&package("semel-gateway", "semel-admin", None)).len(), 1);
        assert_eq!(check(&package("semel-admin", "semel-gateway", None)).len(), 1);
        assert_eq!(check(&package("semel-core", "tokio", None)).len(), 1);
        assert_eq!(check(&package("semel-core", "tokio", Some("dev"))).len(), 0);
        assert_eq!(check(&package("semel-ledger-embedded", "semel-testkit", Some("dev"))).len(), 0);
        assert_eq!(check(&package("semel-ledger-embedded", "semel-testkit", None)).len(), 1);
        assert_eq!(check(&package("semel-newcomer", "semel-core", None)).len(), 1);
    }
}
