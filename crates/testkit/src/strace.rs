//! Faults below the process: strace delays or fails system calls of a running gateway.
//!
//! `inject=fdatasync:delay_enter=N` makes a flush slow without changing anything else, so an answer that leaves before
//! it is caught by the clock alone; `inject=fdatasync:error=EIO` is a dying disk.

use crate::clock::wait_until;
use crate::power::which;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long attaching may take.
const ATTACH_WAIT: Duration = Duration::from_secs(10);

/// Why strace cannot be used here, or `None` when it can.
#[must_use]
pub fn unavailable() -> Option<String> {
    let Some(strace) = which("strace") else {
        return Some("injecting faults needs strace (Debian package strace)".to_owned());
    };
    // Attaching to a process that is no child of strace's needs CAP_SYS_PTRACE under the usual ptrace_scope.
    let traced = Command::new("sleep").arg("30").spawn();
    let Ok(mut traced) = traced else { return Some("sleep(1) cannot be started".to_owned()) };
    let folder = tempfile::tempdir().ok()?;
    let attached = Tracer::attach_with(&strace, traced.id(), folder.path(), &["-e", "trace=fdatasync"]);
    let failed = attached.err();
    let _ = traced.kill();
    let _ = traced.wait();
    failed.map(|error| format!("strace may not attach to other processes here: {error}"))
}

/// A strace attached to all threads of a process; detaches when dropped.
#[derive(Debug)]
pub struct Tracer {
    strace: Child,
    trace: PathBuf,
    said: PathBuf,
}

impl Tracer {
    /// Attaches to `pid` with `arguments` such as `["-e", "inject=fdatasync:delay_enter=300000"]`. The trace and what
    /// strace says go to files in `folder`.
    ///
    /// # Errors
    /// When strace is missing or not allowed.
    pub fn attach(pid: u32, folder: &Path, arguments: &[&str]) -> io::Result<Self> {
        let strace = which("strace").ok_or_else(|| io::Error::other("strace is not installed"))?;
        Self::attach_with(&strace, pid, folder, arguments)
    }

    fn attach_with(strace: &Path, pid: u32, folder: &Path, arguments: &[&str]) -> io::Result<Self> {
        let (trace, said) = (folder.join("strace.trace"), folder.join("strace.said"));
        let mut command = Command::new(strace);
        command.args(["-f", "-ttt", "-o"]).arg(&trace).args(arguments).args(["-p", &pid.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said)?);
        let mut tracer = Self { strace: command.spawn()?, trace, said };
        let mut ended = None;
        wait_until(ATTACH_WAIT, || {
            ended = tracer.strace.try_wait().ok().flatten();
            ended.is_some() || tracer.said().contains("attached")
        });
        match ended {
            None if tracer.said().contains("attached") => Ok(tracer),
            _ => Err(io::Error::other(tracer.said().trim().to_owned())),
        }
    }

    /// The trace so far.
    #[must_use]
    pub fn trace(&self) -> String {
        std::fs::read_to_string(&self.trace).unwrap_or_default()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SIGINT makes strace detach; SIGKILL would leave its tracee stopped.
        if let Some(pid) = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.strace.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_delayed_flush_is_delayed() {
        if let Some(reason) = unavailable() {
            crate::skipped(&reason);
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        // dd flushes once when it is done; reading a line first leaves the time to attach.
        let script = format!("read line; exec dd if=/dev/zero of={} bs=1 count=1 conv=fdatasync", file.display());
        let mut shell =
            Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let tracer = Tracer::attach(shell.id(), folder.path(), &["-e", "inject=fdatasync:delay_enter=300000"]).unwrap();
        let start = Instant::now();
        drop(shell.stdin.take());
        assert!(shell.wait().unwrap().success());
        assert!(start.elapsed() >= Duration::from_millis(300), "the flush took {:?}", start.elapsed());
        assert!(wait_until(ATTACH_WAIT, || tracer.trace().contains("fdatasync")), "{}", tracer.trace());
    }
}
