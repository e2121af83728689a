//! The real gateway as a process: started, killed, frozen and started again.

use crate::clock::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How long a start may take before a test fails.
pub const READY_WAIT: Duration = Duration::from_secs(30);
/// How long an exit may take before a test fails.
pub const EXIT_WAIT: Duration = Duration::from_secs(30);
/// How much of a log is shown when a test fails, in bytes.
const LOG_SHOWN: usize = 12_000;

/// Where Debian puts it, by architecture.
const FAKETIME: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"];

/// The addresses that a configuration listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// For callers.
    pub http: SocketAddr,
    /// For operators.
    pub admin: SocketAddr,
}

impl Ports {
    /// Two loopback ports that are free now. Another process may take them before the gateway does; [`Gateway::start`]
    /// then fails with the gateway's own words.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub fn free() -> io::Result<Self> {
        let [http, admin] =
            [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
        Ok(Self { http: http.local_addr()?, admin: admin.local_addr()? })
    }
}

/// A gateway that runs `semel run -c FILE`, or has run and can run again. Killed when dropped; its log is printed when
/// the test is failing.
#[derive(Debug)]
pub struct Gateway {
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    ports: Ports,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl Gateway {
    /// A gateway that is not started yet. `config` is written to `folder/semel.toml`, the log to `folder/semel.log`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(binary: &Path, folder: &Path, ports: Ports, config: &str) -> io::Result<Self> {
        let gateway = Self {
            binary: binary.to_owned(),
            config: folder.join("semel.toml"),
            log: folder.join("semel.log"),
            ports,
            environment: Vec::new(),
            child: None,
        };
        gateway.configure(config)?;
        Ok(gateway)
    }

    /// Replaces the configuration file; a running gateway reads it again on SIGHUP.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, config: &str) -> io::Result<()> {
        std::fs::write(&self.config, config)
    }

    /// Sets an environment variable of the next start; an empty value removes it.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Its wall clock will differ from everybody else's by this many milliseconds. Time that passes is not touched.
    ///
    /// # Errors
    /// When libfaketime is not installed: in words, for [`crate::skipped`].
    pub fn skew_clock(&mut self, by_ms: i64) -> Result<(), &'static str> {
        let library = FAKETIME.iter().find(|path| Path::new(path).exists());
        let library = library.ok_or("clocks are skewed with libfaketime (Debian package faketime)")?;
        self.set_env("LD_PRELOAD", library);
        let sign = if by_ms < 0 { '-' } else { '+' };
        let by_ms = by_ms.unsigned_abs();
        self.set_env("FAKETIME", &format!("{sign}{}.{:03}s", by_ms / 1000, by_ms % 1000));
        // Without it timers of Rust programs never fire.
        self.set_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Ok(())
    }

    /// Where callers connect.
    #[must_use]
    pub const fn http(&self) -> SocketAddr {
        self.ports.http
    }

    /// Where operators connect.
    #[must_use]
    pub const fn admin(&self) -> SocketAddr {
        self.ports.admin
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Starts the process without waiting for it.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub fn launch(&mut self) -> io::Result<()> {
        assert!(self.child.is_none(), "the gateway runs already");
        let mut log = File::options().create(true).append(true).open(&self.log)?;
        writeln!(log, "---- semel run -c {}", self.config.display())?;
        let mut command = Command::new(&self.binary);
        command.arg("run").arg("-c").arg(&self.config).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// Starts the process and waits until it takes callers.
    ///
    /// # Errors
    /// When it exits before, or is not ready within [`READY_WAIT`]; the message ends with its log.
    pub fn start(&mut self) -> io::Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Waits until it takes connections: it listens only once its ledger is open.
    ///
    /// # Errors
    /// When the process exits before, or is not ready within [`READY_WAIT`].
    pub fn wait_ready(&mut self) -> io::Result<()> {
        let Ports { http, admin } = self.ports;
        let mut exited = None;
        let ready = wait_until(READY_WAIT, || {
            exited = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            exited.is_some() || (TcpStream::connect(http).is_ok() && TcpStream::connect(admin).is_ok())
        });
        match exited {
            Some(status) => {
                self.child = None;
                Err(io::Error::other(format!("the gateway ended ({status}) before it was ready\n{}", self.log_end())))
            }
            None if !ready => Err(io::Error::other(format!("the gateway is not ready\n{}", self.log_end()))),
            None => Ok(()),
        }
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// `kill -9`: no time to write anything. Waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait().map(|_| ())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.ok_or_else(|| io::Error::other("the gateway does not run"))?;
        Ok(kill_process(pid, signal)?)
    }

    /// SIGTERM, and waits for its exit.
    ///
    /// # Errors
    /// When it does not exit within [`EXIT_WAIT`].
    pub fn terminate(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_exit()
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Errors
    /// When it does not within [`EXIT_WAIT`].
    pub fn wait_exit(&mut self) -> io::Result<ExitStatus> {
        let mut status = None;
        wait_until(EXIT_WAIT, || {
            status = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            status.is_some()
        });
        let status = status.ok_or_else(|| io::Error::other(format!("the gateway does not end\n{}", self.log_end())))?;
        self.child = None;
        Ok(status)
    }

    /// Whether the process runs.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// All it has logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let mut from = log.len().saturating_sub(LOG_SHOWN);
        while !log.is_char_boundary(from) {
            from += 1;
        }
        format!("its log ends:\n{}", &log[from..])
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log_end());
        }
    }
}

/// A plain blocking GET: status and body. For admin pages; callers' traffic goes through [`crate::client`].
///
/// # Errors
/// When the server cannot be reached or does not answer in five seconds.
pub fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let bound = Duration::from_secs(5);
    let mut socket = TcpStream::connect_timeout(&address, bound)?;
    socket.set_read_timeout(Some(bound))?;
    socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("not an HTTP answer: {head:?}")))?;
    Ok((status, body.to_owned()))
}
