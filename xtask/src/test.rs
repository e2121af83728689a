//! `cargo xtask test`: everything CI runs, cheapest first.

use crate::packages;
use crate::run::{Outcome, cargo, have, root, run, run_seeing};
use crate::tidy;
use std::process::Command;

/// Runs every check; the first step that fails ends it, except that failing tests are counted to the end.
pub(crate) fn test(install: bool) -> Outcome {
    if install {
        packages::install(packages::FOR_TESTS);
        packages::install_nats_server();
    }
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    tidy::tidy()?;
    run(cargo(&["doc", "--workspace", "--no-deps", "--locked", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    if have("cargo-deny") {
        run(&mut cargo(&["deny", "--offline", "check", "licenses", "bans", "sources"]))?;
    }
    let skipped = root().join("target").join("skipped-tests.txt");
    let _ = std::fs::remove_file(&skipped);
    let mut tally = Tally::default();
    for step in steps() {
        let mut command = step.command();
        command.env("SEMEL_SKIPPED", &skipped);
        tally.count(&mut command)?;
    }
    for line in std::fs::read_to_string(&skipped).unwrap_or_default().lines() {
        println!("skipped: {line}");
    }
    tally.close()
}

/// The tests that stop processes at named places. Of the whole workspace, so that everybody else's crates are built with the
/// features that they have been built with already.
const FAILPOINTS: [&str; 7] = [
    "--workspace",
    "--features",
    "semel/failpoints,semel-ledger-embedded/failpoints",
    "--test",
    "failpoints",
    "--test",
    "store",
];

/// One run of tests.
enum Step {
    /// Unit and integration tests of the workspace as it ships.
    All,
    /// The crash tests that need a process built to stop at named places.
    Failpoints,
    /// Examples in doc comments.
    Doc,
}

fn steps() -> [Step; 3] {
    [Step::All, Step::Failpoints, Step::Doc]
}

impl Step {
    fn command(&self) -> Command {
        let tests: &[&str] = match self {
            Self::All => &["--workspace", "--lib", "--bins", "--tests", "--examples"],
            Self::Failpoints => &FAILPOINTS,
            Self::Doc => return cargo(&["test", "--workspace", "--doc", "--locked"]),
        };
        let mut command = if have("cargo-nextest") {
            cargo(&["nextest", "run", "--no-fail-fast", "--locked"])
        } else {
            cargo(&["test", "--no-fail-fast", "--locked"])
        };
        command.args(tests);
        command
    }
}

/// How many tests ran, as the runners themselves report it.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    broken: Vec<String>,
}

impl Tally {
    fn count(&mut self, command: &mut Command) -> Outcome {
        let (mut passed, mut failed) = (0, 0);
        let ok = run_seeing(command, |line| {
            if let Some((p, f)) = summary(line) {
                passed += p;
                failed += f;
            }
        })?;
        self.passed += passed;
        self.failed += failed;
        if !ok && failed == 0 {
            self.broken.push(format!("{command:?} failed without a failed test: it did not build or was killed"));
        }
        Ok(())
    }

    fn close(self) -> Outcome {
        println!("{} passed, {} failed", self.passed, self.failed);
        if let Some(first) = self.broken.first() {
            return Err(first.clone());
        }
        match (self.failed, self.passed) {
            (0, 0) => Err("no test ran".to_owned()),
            (0, _) => Ok(()),
            (failed, _) => Err(format!("{failed} tests failed")),
        }
    }
}

/// `(passed, failed)` of a runner's closing line, nextest's or libtest's.
fn summary(line: &str) -> Option<(u64, u64)> {
    let (nextest, libtest) = (line.trim_start().strip_prefix("Summary ["), line.strip_prefix("test result: "));
    let counts = nextest.or(libtest)?;
    let of = |words: &[&str]| -> u64 {
        let named = |part: &str| words.iter().any(|word| part.split_whitespace().nth(1) == Some(*word));
        let parts = counts.split([',', ';', ':', '.', ']']).map(str::trim);
        parts.filter(|part| named(part)).filter_map(|part| part.split(' ').next()?.parse::<u64>().ok()).sum()
    };
    // nextest says "3 tests run: 1 passed (1 slow), 1 failed, 1 timed out, 4 skipped".
    let timed_out = counts.split([',', ':']).map(str::trim).find_map(|part| part.strip_suffix(" timed out"));
    let timed_out = timed_out.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    Some((of(&["passed"]), of(&["failed", "exec"]) + timed_out))
}

#[cfg(test)]
mod tests {
    use super::summary;

    #[test]
    fn closing_lines_of_both_runners_are_counted() {
        let nextest = "     Summary [   0.049s] 12 tests run: 10 passed (2 slow), 1 failed, 1 timed out, 4 skipped";
        assert_eq!(summary(nextest), Some((10, 2)));
        assert_eq!(summary("     Summary [  71.2s] 1 test run: 1 passed, 0 skipped"), Some((1, 0)));
        let libtest =
            "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(summary(libtest), Some((3, 2)));
        assert_eq!(summary("test a::summary ... ok"), None);
    }
}
