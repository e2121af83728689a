//! The command line as people meet it: help word for word, exit codes, what goes where.
//!
//! `SEMEL_UPDATE=1 cargo test -p semel` writes the expected files anew.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

fn semel(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
    command.current_dir(folder).args(args).env_remove("SEMEL_CONFIG").env("COLUMNS", "100");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn expect(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    assert!(out.contains(stdout), "{stdout:?} is not in standard output: {out}");
    assert!(err.contains(stderr), "{stderr:?} is not in standard error: {err}");
    assert!(!out.contains('\x1b') && !err.contains('\x1b'), "colour away from a terminal");
}

/// A folder with a configuration whose upstream listens on `port`.
fn folder(port: u16) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let output = semel(folder.path(), &["init", "-"]);
    let config = text(&output.stdout).replace("127.0.0.1:9000\"]", &format!("127.0.0.1:{port}\"]"));
    write(&folder.path().join("semel.toml"), &config);
    folder
}

#[expect(clippy::disallowed_methods, reason = "a test writes its own files")]
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[test]
fn help_reads_as_expected() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut differing = String::new();
    for command in
        ["", "dev", "run", "init", "check", "explain", "effects", "ledger", "top", "limits", "reload", "demo"]
    {
        let args: Vec<&str> = [command, "--help"].into_iter().filter(|a| !a.is_empty()).collect();
        let output = semel(here, &args);
        assert_eq!(output.status.code(), Some(0));
        let path = here.join(format!("tests/cases/help-{}.txt", if command.is_empty() { "semel" } else { command }));
        let actual = text(&output.stdout);
        if std::env::var_os("SEMEL_UPDATE").is_some() {
            write(&path, actual);
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if expected != actual {
            differing += &format!("--- {}, expected\n{expected}\n--- actual\n{actual}", path.display());
        }
    }
    assert!(differing.is_empty(), "{differing}\nrun with SEMEL_UPDATE=1 if this is meant");
}

#[test]
fn what_init_writes_passes_check() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = folder(upstream.local_addr().unwrap().port());
    expect(&semel(folder.path(), &["check"]), 0, "upstream  ok", "");
    expect(&semel(folder.path(), &["init"]), 1, "", "`--force` replaces it");
    expect(&semel(folder.path(), &["init", "--force"]), 0, "", "wrote semel.toml");
    expect(&semel(folder.path(), &["check", "--offline"]), 0, "config    ok", "");
}

#[test]
fn check_says_what_is_wrong_by_its_exit_code() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = folder(closed);
    expect(&semel(folder.path(), &["check"]), 5, "unreachable", "");
    expect(&semel(folder.path(), &["check", "-c", "absent.toml"]), 3, "", "error[SM0001]");
    write(&folder.path().join("bad.toml"), "lisen = 1\n");
    expect(&semel(folder.path(), &["check", "-c", "bad.toml"]), 3, "", "did you mean `listen`?");
    expect(&semel(folder.path(), &["check", "--nonsense"]), 2, "", "unexpected argument");
}

#[test]
fn explain_tells_requests_and_codes() {
    let folder = folder(9);
    let at = folder.path();
    expect(&semel(at, &["explain", "POST", "/v1/payments"]), 0, "timeout.attempt", "");
    expect(&semel(at, &["explain", "post", "/v1/payments", "--json"]), 0, "\"timeout_ms\": 10000", "");
    expect(&semel(at, &["explain", "PATCH", "/v1/payments"]), 6, "", "would answer 405");
    expect(&semel(at, &["explain", "POST", "/elsewhere"]), 6, "", "would answer 404");
    expect(&semel(at, &["explain"]), 0, "Routes\n", "");
    expect(&semel(at, &["explain", "SM0007"]), 0, "## What to do", "");
    expect(&semel(at, &["explain", "SM999"]), 6, "", "is not an error code");
}
