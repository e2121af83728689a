//! Real PostgreSQL servers on ports and in folders of their own, gone with the test.
//!
//! A server refuses to run as root, so a test that runs as root starts it as the user `postgres`, which Debian's package
//! makes. The kernel stops it when the test's process dies, whatever the reason (`setpriv --pdeathsig`).

mod pooler;

use crate::clock::wait_until;
use crate::process::Ports;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

pub use pooler::Pooler;

/// The role that owns everything; it needs no password from this machine.
const ROLE: &str = "semel";
/// The user that a server runs as when the test runs as root.
const USER: &str = "postgres";
/// How long a start, a stop or a promotion may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often another port is tried when somebody else took the first.
const PORTS_TRIED: usize = 5;

/// Why no server can be started here, or `None` when it can.
#[must_use]
pub fn unavailable() -> Option<String> {
    if programs().is_none() {
        return Some("PostgreSQL is not installed (Debian package postgresql)".to_owned());
    }
    let setpriv = Path::new("/usr/bin/setpriv").exists();
    (!setpriv).then(|| "servers are started with setpriv (Debian package util-linux)".to_owned())
}

/// The newest installed release's programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let found = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    found.filter(|bin| bin.join("initdb").exists() && bin.join("postgres").exists()).max()
}

/// A server. Stopped, and its folder removed, when dropped.
#[derive(Debug)]
pub struct Server {
    folder: tempfile::TempDir,
    port: u16,
    running: Option<Running>,
}

/// A server's process, and the thread that started it: the kernel's death signal belongs to that thread.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    _thread: SyncSender<()>,
}

impl Server {
    /// A new, empty server; `settings` are lines of its configuration.
    ///
    /// # Errors
    /// When it does not start; the error holds the end of its log.
    pub fn start(settings: &str) -> io::Result<Self> {
        let folder = folder()?;
        let data = folder.path().join("data");
        let mut initdb = program("initdb")?;
        initdb.arg("-D").arg(&data).args(["-A", "trust", "-U", ROLE, "-E", "UTF8", "--locale=C"]);
        done(initdb.args(["--no-sync", "--wal-segsize=4"]))?;
        let defaults = "listen_addresses = '127.0.0.1'\nshared_buffers = 32MB\nmax_wal_size = 256MB\n\
                        hot_standby = on\nwal_keep_size = 64MB\nlog_min_messages = warning\n\
                        recovery_init_sync_method = syncfs\n\
                        wal_retrieve_retry_interval = 200ms\n";
        let mut server = Self { folder, port: 0, running: None };
        server.configure(&format!("{defaults}unix_socket_directories = '{}'\n", server.folder.path().display()))?;
        server.configure(settings)?;
        server.start_somewhere()?;
        Ok(server)
    }

    /// A standby that follows this server, under `name` in `synchronous_standby_names`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn standby(&self, name: &str) -> io::Result<Self> {
        let folder = folder()?;
        let data = folder.path().join("data");
        let mut backup = program("pg_basebackup")?;
        backup.args(["-h", "127.0.0.1", "-U", ROLE, "-X", "stream", "--checkpoint=fast", "--no-sync", "-p"]);
        done(backup.arg(self.port.to_string()).arg("-D").arg(data))?;
        let mut standby = Self { folder, port: 0, running: None };
        standby.configure(&format!(
            "unix_socket_directories = '{}'\nsynchronous_standby_names = ''\n\
             primary_conninfo = 'host=127.0.0.1 port={} user={ROLE} application_name={name}'\n",
            standby.folder.path().display(),
            self.port,
        ))?;
        done(as_user("touch")?.arg(standby.data().join("standby.signal")))?;
        standby.start_somewhere()?;
        Ok(standby)
    }

    /// Where a client connects.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/postgres", self.port)
    }

    /// Where a client finds whichever of this server and its standbys takes writes.
    #[must_use]
    pub fn url_with(&self, standbys: &[&Self]) -> String {
        let all = [self].into_iter().chain(standbys.iter().copied());
        let hosts: Vec<String> = all.map(|server| format!("127.0.0.1:{}", server.port)).collect();
        format!("postgres://{ROLE}@{}/postgres", hosts.join(","))
    }

    /// The port it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What a statement prints, without headers.
    ///
    /// # Errors
    /// When it fails.
    pub fn sql(&self, statement: &str) -> io::Result<String> {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", ROLE, "-d", "postgres"]);
        done(psql.arg("-p").arg(self.port.to_string()).args(["-c", statement]))
    }

    /// Adds lines to its configuration; [`Server::reload`] or the next start reads them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, settings: &str) -> io::Result<()> {
        let mut file = File::options().append(true).open(self.data().join("postgresql.conf"))?;
        writeln!(file, "{settings}")
    }

    /// Copies a file into its folder of data, which only its user can read; the configuration names it without a path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, name: &str, from: &Path) -> io::Result<()> {
        let path = self.data().join(name);
        fs::copy(from, &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        if is_root() {
            done(Command::new("chown").arg(USER).arg(&path))?;
        }
        Ok(())
    }

    /// Lets it read its configuration again.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn reload(&self) -> io::Result<()> {
        self.sql("SELECT pg_reload_conf()").map(drop)
    }

    /// Kills the server with SIGKILL: nothing is flushed, nobody is told. Its other processes notice and go.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> io::Result<()> {
        self.end(Signal::KILL)
    }

    /// Freezes or thaws the server: with SIGSTOP its connections stand and nothing moves.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        let main = self.running.as_ref().map(|running| running.child.id()).ok_or(io::ErrorKind::NotFound)?;
        let mut all = children(main)?;
        all.push(main);
        for process in all {
            if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, signal);
            }
        }
        Ok(())
    }

    /// Starts it again on the same port and data.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> io::Result<()> {
        // After a kill its other processes take a moment to go; until then the data are in use.
        let mut last = None;
        let started = wait_until(PATIENCE, || match self.launch() {
            Ok(()) => true,
            Err(error) => {
                last = Some(error);
                false
            }
        });
        if started { Ok(()) } else { Err(last.unwrap_or_else(|| io::ErrorKind::TimedOut.into())) }
    }

    /// Makes a standby the primary, and waits until it takes writes.
    ///
    /// # Errors
    /// When it does not.
    pub fn promote(&self) -> io::Result<()> {
        self.sql("SELECT pg_promote(true, 60)").map(drop)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn start_somewhere(&mut self) -> io::Result<()> {
        let mut last = None;
        for _ in 0..PORTS_TRIED {
            self.port = Ports::free()?.http.port();
            match self.launch() {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }

    fn launch(&mut self) -> io::Result<()> {
        let log = self.folder.path().join("log");
        let log_file = File::options().create(true).append(true).open(&log)?;
        let mut command = program("postgres")?;
        command.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
        self.running = Some(spawn(command)?);
        let mut dead = false;
        let ready = wait_until(PATIENCE, || {
            dead = self.running.as_mut().is_none_or(|running| !matches!(running.child.try_wait(), Ok(None)));
            dead || self.sql("SELECT 1").is_ok()
        });
        if ready && !dead {
            return Ok(());
        }
        let _ = self.end(Signal::KILL);
        let log = fs::read_to_string(&log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(12).collect();
        Err(io::Error::other(format!("PostgreSQL did not start; its log, last line first:\n{}", tail.join("\n"))))
    }

    fn end(&mut self, signal: Signal) -> io::Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        if let Some(pid) = i32::try_from(running.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, signal)?;
        }
        running.child.wait().map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGQUIT: the server ends all its processes at once. A frozen one must be thawed to do so.
        let _ = self.freeze(false);
        let _ = self.end(Signal::QUIT);
    }
}

/// A folder that the server's user may use.
fn folder() -> io::Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("semel-postgres-").tempdir()?;
    if is_root() {
        done(Command::new("chown").arg(USER).arg(folder.path()))?;
    }
    Ok(folder)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn program(name: &str) -> io::Result<Command> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "PostgreSQL is not installed");
    let mut command = as_user(programs().ok_or_else(missing)?.join(name))?;
    // A folder that its user may not read would be complained about.
    command.current_dir("/");
    Ok(command)
}

/// A command as the server's user, stopped with this process.
fn as_user(program: impl AsRef<std::ffi::OsStr>) -> io::Result<Command> {
    let mut command = Command::new("setpriv");
    if is_root() {
        let ids = done(Command::new("id").args(["-u", USER]))?;
        let group = done(Command::new("id").args(["-g", USER]))?;
        command.args(["--reuid", ids.trim(), "--regid", group.trim(), "--clear-groups"]);
    }
    command.args(["--pdeathsig", "QUIT"]).arg(program);
    Ok(command)
}

/// Starts the command from a thread that lives as long as what is returned.
pub(crate) fn spawn(mut command: Command) -> io::Result<Running> {
    let (thread, until): (SyncSender<()>, Receiver<()>) = sync_channel(0);
    let (started, child) = sync_channel(1);
    std::thread::spawn(move || {
        let _ = started.send(command.spawn());
        let _ = until.recv();
    });
    let child = child.recv().map_err(io::Error::other)??;
    Ok(Running { child, _thread: thread })
}

fn done(command: &mut Command) -> io::Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let program = command.get_program().to_string_lossy();
    Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

fn children(of: u32) -> io::Result<Vec<u32>> {
    let list = fs::read_to_string(format!("/proc/{of}/task/{of}/children"))?;
    Ok(list.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}
