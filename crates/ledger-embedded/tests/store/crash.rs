//! kill -9 at random moments: the test binary runs itself as the process that is killed.

use crate::{
    kv::open,
    writers::{Told, busy, check, target, write},
};
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64},
    },
};

const CHILD: &str = "SEMEL_CRASH_CHILD";
const FIRST: &str = "SEMEL_CRASH_FIRST";

/// Not a test of its own: what the killed process does. It prints a line before and after each write.
#[test]
fn child_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let first = std::env::var(FIRST).unwrap().parse().unwrap();
    let store = open(&busy(Path::new(&dir)));
    let acknowledged = |writer: u64, n: u64| writeln!(std::io::stdout(), "ack {writer} {n}").unwrap();
    let told = Mutex::new(Told::default());
    write(&store, 4, first, &told, &AtomicBool::new(false), &AtomicU64::new(0), &acknowledged);
}

pub(crate) fn spawn(dir: &Path, first: u64, variables: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_writes_until_it_is_killed", "--nocapture"])
        .env(CHILD, dir)
        .env(FIRST, first.to_string())
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Reads acknowledgements until the process ends; kills it when there were `enough`.
pub(crate) fn listen(child: &mut Child, enough: u64, told: &mut Told, first: u64) -> u64 {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut heard = 0;
    let mut last = [None; 4];
    for line in lines.map_while(Result::ok) {
        let mut words = line.split(' ');
        if words.next() != Some("ack") {
            continue;
        }
        let mut number = || words.next().unwrap().parse::<u64>().unwrap();
        let (writer, n) = (number(), number());
        told.acknowledged.insert(target(writer, n), (n % 5 != 4).then_some(n));
        last[usize::try_from(writer).unwrap()] = Some(n);
        heard += 1;
        if heard == enough {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    // Each writer may have asked for one more, and been answered without our hearing of it.
    for (writer, last) in (0..).zip(last) {
        let n = last.map_or(first, |n| n + 1);
        told.in_doubt.insert(target(writer, n), (n % 5 != 4).then_some(n));
    }
    heard
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ledger");
    let mut told = Told::default();
    for cycle in 0..8u64 {
        let first = cycle * 1_000_000;
        let mut child = spawn(&dir, first, &[]);
        let enough = 5 + cycle * 7919 % 1200;
        assert!(listen(&mut child, enough, &mut told, first) >= enough);
        check(&open(&busy(&dir)), &mut told);
    }
    assert!(told.acknowledged.len() > 100);
}

/// Stops at every named place, each a few times on the way.
#[cfg(feature = "failpoints")]
#[test]
fn what_was_acknowledged_survives_a_stop_at_every_failpoint() {
    let points = [
        "log.append.before",
        "log.sync.before",
        "log.sync.after",
        "ack.before",
        "segment.create",
        "checkpoint.before",
        "checkpoint.written",
        "checkpoint.registered",
    ];
    for point in points {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ledger");
        let mut told = Told::default();
        for (cycle, hit) in [1, 2, 3, 7, 2].into_iter().enumerate() {
            let first = cycle as u64 * 1_000_000;
            let mut child = spawn(&dir, first, &[("SEMEL_FAILPOINT", &format!("{point}=abort@{hit}"))]);
            // Some places are not passed that often: then it is killed.
            listen(&mut child, 3000, &mut told, first);
            check(&open(&busy(&dir)), &mut told);
        }
    }
}

/// A failing write or flush stops the store; whoever opens it again finds all that was acknowledged.
#[cfg(feature = "failpoints")]
#[test]
fn what_was_acknowledged_survives_a_failed_commit() {
    for point in ["log.append.before", "log.sync.before", "log.sync.after", "ack.before"] {
        for error in ["eio", "enospc"] {
            let folder = tempfile::tempdir().unwrap();
            let dir = folder.path().join("ledger");
            let mut told = Told::default();
            // The child's writers end when their calls fail: nothing is answered after the failure.
            let mut child = spawn(&dir, 0, &[("SEMEL_FAILPOINT", &format!("{point}={error}@100"))]);
            let heard = listen(&mut child, u64::MAX, &mut told, 0);
            assert!((90..=400).contains(&heard), "{heard} acknowledgements before {point}={error}@100");
            check(&open(&busy(&dir)), &mut told);
        }
    }
}
