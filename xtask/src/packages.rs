//! Debian packages that tests and benchmarks use.

use crate::run::{Outcome, have, run};
use std::process::Command;

/// A tool and the Debian package that brings it.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    pub(crate) wanted_for: &'static str,
}

const fn tool(name: &'static str, package: &'static str, wanted_for: &'static str) -> Tool {
    Tool { name, package, wanted_for }
}

/// What the tests use. A test that misses one says so and is listed as skipped.
pub(crate) const FOR_TESTS: &[Tool] = &[
    tool("cc", "gcc", "building"),
    tool("strace", "strace", "delayed and failing flushes"),
    tool("mkfs.ext4", "e2fsprogs", "power loss"),
    tool("mount", "mount", "power loss and the full disk"),
    tool("losetup", "mount", "power loss"),
    tool("setpriv", "util-linux", "permission tests and database servers"),
    tool("psql", "postgresql-client-15", "the PostgreSQL ledger"),
    tool("/usr/lib/postgresql/15/bin/postgres", "postgresql-15", "the PostgreSQL ledger"),
];

/// What the benchmarks compare with.
pub(crate) const FOR_BENCHMARKS: &[Tool] = &[
    tool("haproxy", "haproxy", "the forward route's peer"),
    tool("nginx", "nginx-light", "the forward route's peer"),
    tool("npm", "npm", "Restate's server comes from the npm registry"),
];

/// Installs what is missing with apt-get when root; otherwise says what is missing and goes on.
pub(crate) fn install(tools: &[Tool]) -> Outcome {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !have(tool.name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    if !is_root() || !have("apt-get") {
        for tool in missing {
            eprintln!("missing: {} ({}); install the package {}", tool.name, tool.wanted_for, tool.package);
        }
        eprintln!("as root: apt-get install {}", packages.join(" "));
        return Ok(());
    }
    // The lists may be older than the mirror; without network an install from the old lists may still do.
    let _ = run(&mut apt(&["update", "-q"]));
    run(apt(&["install", "-q", "-y", "--no-install-recommends"]).args(&packages))
}

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}
