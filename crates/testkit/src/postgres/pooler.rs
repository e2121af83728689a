//! A pooler that lends a session to each transaction, in front of a server.

use super::{ROLE, Running, Server, as_user, folder, spawn};
use crate::clock::wait_until;
use crate::process::Ports;
use rustix::process::{Pid, Signal, kill_process};
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

const PROGRAM: &str = "/usr/sbin/pgbouncer";
/// How long a start may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// `PgBouncer` with `pool_mode = transaction`. Stopped when dropped.
#[derive(Debug)]
pub struct Pooler {
    running: Running,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Pooler {
    /// Why none can be started here, or `None` when one can.
    #[must_use]
    pub fn unavailable() -> Option<String> {
        let missing = !Path::new(PROGRAM).exists();
        super::unavailable().or(missing.then(|| "PgBouncer is not installed (Debian package pgbouncer)".to_owned()))
    }

    /// A pooler in front of `server`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(server: &Server) -> io::Result<Self> {
        let folder = folder()?;
        let port = Ports::free()?.http.port();
        let config = folder.path().join("pgbouncer.ini");
        let users = folder.path().join("users.txt");
        std::fs::write(&users, format!("\"{ROLE}\" \"\"\n"))?;
        std::fs::write(
            &config,
            format!(
                "[databases]\npostgres = user={ROLE} host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nunix_socket_dir =\nauth_type = any\nauth_file = {}\npool_mode = transaction\n\
                 default_pool_size = 3\nmax_client_conn = 100\n",
                server.port(),
                users.display(),
            ),
        )?;
        let mut command = as_user(PROGRAM)?;
        command.arg("--quiet").arg(&config).current_dir("/");
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let running = spawn(command)?;
        let pooler = Self { running, port, _folder: folder };
        let ready = wait_until(PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        if ready { Ok(pooler) } else { Err(io::Error::other("the pooler does not take connections")) }
    }

    /// Where a client connects.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.running.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.running.child.wait();
    }
}
