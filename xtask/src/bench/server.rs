//! Processes under load.

use crate::run::{Outcome, root};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to listen.
const START_WAIT: Duration = Duration::from_secs(60);

/// A process that listens; killed when dropped.
pub(super) struct Server {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts `command` and waits until `address` takes connections.
    pub(super) fn start(name: &str, address: SocketAddr, command: &mut Command) -> Outcome<Self> {
        let log = folder().join(format!("{name}.log"));
        let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let twin = file.try_clone().map_err(|error| error.to_string())?;
        command.stdin(Stdio::null()).stdout(file).stderr(twin);
        let child = command.spawn().map_err(|error| format!("{name} did not start: {error}"))?;
        let mut server = Self { name: name.to_owned(), address, child };
        let give_up = Instant::now() + START_WAIT;
        while TcpStream::connect(address).is_err() {
            let ended = server.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > give_up {
                return Err(format!("{name} does not listen on {address}; see {}", log.display()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub(super) fn kill(mut self) {
        self.end();
    }

    /// Resident memory in MiB, of the process itself.
    pub(super) fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or(0.0) / 1024.0
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where benchmarks keep their files.
pub(super) fn folder() -> PathBuf {
    let folder = root().join("target").join("bench");
    let _ = std::fs::create_dir_all(&folder);
    folder
}

/// A loopback address that is free now.
pub(super) fn free_address() -> Outcome<SocketAddr> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound.map_err(|error| format!("no free port: {error}"))
}

/// Writes a configuration file and returns where it is.
pub(super) fn write(name: &str, text: &str) -> Outcome<PathBuf> {
    let path = folder().join(name);
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// An empty folder for data.
pub(super) fn empty(name: &str) -> Outcome<PathBuf> {
    let path = folder().join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// One of the workspace's own binaries, as they are shipped.
pub(super) fn release(binary: &str) -> Command {
    Command::new(root().join("target").join("dist").join(binary))
}

/// The upstream that all are measured before.
pub(super) fn stub() -> Outcome<Server> {
    let address = free_address()?;
    Server::start("stub", address, release("semel-load").args(["stub", "--listen", &address.to_string()]))
}

/// semel before `upstream`, with a `forward` and a `once` route, one with every policy on, and its data in `data`.
pub(super) fn semel(upstream: SocketAddr, data: &Path) -> Outcome<Server> {
    let (http, admin) = (free_address()?, free_address()?);
    let config = format!(
        r#"listen = {{ http = "{http}", admin = "{admin}" }}
ledger.embedded = {{ path = "{}" }}
log.filter = "warn"
[upstream.stub]
urls = ["http://{upstream}"]
[[route]]
match = "POST /forward"
to = "stub"
effect = "forward"
[[route]]
match = "POST /once"
to = "stub"
effect = "once"
[upstream.guarded]
urls = ["http://{upstream}"]
breaker = {{}}
outlier = {{}}
admission = {{ limit = 1024 }}
throttle = {{}}
[[route]]
match = "POST /policies"
to = "guarded"
effect = "idempotent"
rate = {{ limit = "10000000/s", by = "everyone" }}
hedge = {{}}
priority = "high"
"#,
        data.display()
    );
    let config = write("semel.toml", &config)?;
    Server::start("semel", http, release("semel").arg("run").arg("-c").arg(config))
}
