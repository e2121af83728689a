//! What people read, word for word: `tests/cases/NAME.toml` with `NAME.txt` beside it.
//!
//! `SEMEL_UPDATE=1 cargo test -p semel-config` writes the expected files anew; read the difference before committing it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use http::{HeaderMap, Method};
use semel_config::{Colour, Dev, STARTER, explain, load};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

#[expect(clippy::disallowed_methods, reason = "a test writes its expected files when asked to")]
fn compare(name: &str, actual: &str, differing: &mut Vec<String>) {
    let path = cases().join(name);
    if std::env::var_os("SEMEL_UPDATE").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if expected != actual {
        differing.push(format!("--- {name}, expected\n{expected}\n--- actual\n{actual}"));
    }
}

fn finish(differing: &[String]) {
    assert!(differing.is_empty(), "{}\nrun with SEMEL_UPDATE=1 if this is meant", differing.join("\n"));
}

#[test]
fn findings_read_as_expected() {
    let mut differing = Vec::new();
    let mut count = 0;
    let mut names: Vec<_> = std::fs::read_dir(cases()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let name = name.to_str().unwrap();
        let Some(stem) = name.strip_suffix(".toml") else { continue };
        let text = std::fs::read_to_string(cases().join(name)).unwrap();
        let actual = match load("semel.toml", &text) {
            Ok((_, report)) => format!("accepted\n{}", report.render(Colour::Off)),
            Err(report) => format!("refused\n{}", report.render(Colour::Off)),
        };
        compare(&format!("{stem}.txt"), &actual, &mut differing);
        count += 1;
    }
    assert!(count > 10, "the cases are there");
    finish(&differing);
}

#[test]
fn explanations_read_as_expected() {
    let text = std::fs::read_to_string(cases().join("full.toml")).unwrap();
    let (config, _) = load("semel.toml", &text).unwrap();
    let mut actual = String::new();
    for (method, path) in [
        ("POST", "/v1/payments?x=1"),
        ("POST", "/v1/orders/4711/capture"),
        ("GET", "/v1/orders/4711"),
        ("DELETE", "/v1/payments"),
        ("GET", "/elsewhere"),
        ("GET", "/v1/../admin"),
    ] {
        let method: Method = method.parse().unwrap();
        match explain(&config, &method, None, path, &HeaderMap::new()) {
            Ok(explanation) => writeln!(actual, "{}", explanation.text()).unwrap(),
            Err(none) => writeln!(actual, "{method} {path}\n{none}\n").unwrap(),
        }
    }
    let json = explain(&config, &Method::POST, None, "/v1/payments", &HeaderMap::new()).unwrap().json();
    let mut differing = Vec::new();
    compare("explain.txt", &actual, &mut differing);
    compare("explain.json", &(serde_json::to_string_pretty(&json).unwrap() + "\n"), &mut differing);
    compare("describe.txt", &config.describe(), &mut differing);
    finish(&differing);
}

#[test]
fn the_starter_file_is_accepted_without_a_warning() {
    let (config, report) = load("semel.toml", STARTER).unwrap_or_else(|r| panic!("{}", r.render(Colour::Off)));
    assert!(report.is_empty(), "{}", report.render(Colour::Off));
    assert_eq!(config.routes.len(), 3);
    let uncommented: String = STARTER
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest.starts_with('[') || rest.split_once(" = ").is_some_and(|(k, _)| !k.trim().contains(' ')) =>
            {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert_ne!(uncommented, STARTER);
    if let Err(report) = load("semel.toml", &uncommented) {
        panic!("what the comments offer is accepted as well:\n{}", report.render(Colour::Off));
    }
}

#[test]
fn the_dev_file_is_accepted_without_a_warning() {
    for (demo, chaos) in [(true, true), (true, false), (false, true), (false, false)] {
        let text = semel_config::dev(&Dev {
            http: "127.0.0.1:8080".parse().unwrap(),
            admin: "127.0.0.1:8081".parse().unwrap(),
            data: Path::new("/tmp/a \"quoted\" folder\\"),
            upstream: "http://127.0.0.1:3000",
            demo,
            chaos,
        });
        let (config, report) = load("dev", &text).unwrap_or_else(|r| panic!("{}", r.render(Colour::Off)));
        assert!(report.is_empty(), "{}", report.render(Colour::Off));
        let explained = explain(&config, &Method::POST, None, "/pay", &HeaderMap::new()).unwrap();
        assert_eq!(explained.route().effect.as_str(), "once");
        assert_eq!(explained.route().fault.is_some(), chaos);
    }
}
