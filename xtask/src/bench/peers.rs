//! What semel is compared with, each in its usual fast configuration.

use super::server::{Server, empty, folder, free_address, write};
use crate::run::{Outcome, output, run};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long Restate may take to be healthy.
const HEALTHY_WAIT: Duration = Duration::from_secs(60);

pub(super) fn haproxy(upstream: SocketAddr) -> Outcome<Server> {
    let address = free_address()?;
    let config = format!(
        "global\n  maxconn 4000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  \
         http-reuse always\nfrontend f\n  bind {address}\n  default_backend b\nbackend b\n  server s {upstream}\n"
    );
    let config = write("haproxy.cfg", &config)?;
    Server::start("haproxy", address, Command::new("haproxy").arg("-db").arg("-f").arg(config))
}

pub(super) fn nginx(upstream: SocketAddr) -> Outcome<Server> {
    let (address, data) = (free_address()?, empty("nginx")?);
    let data = data.display();
    let config = format!(
        "daemon off;\nuser root;\nworker_processes auto;\npid {data}/pid;\nerror_log {data}/error.log;\n\
         events {{ worker_connections 4096; }}\nhttp {{\n  access_log off;\n  keepalive_requests 1000000000;\n  \
         client_body_temp_path {data}/body;\n  proxy_temp_path {data}/proxy;\n  fastcgi_temp_path {data}/f;\n  \
         uwsgi_temp_path {data}/u;\n  scgi_temp_path {data}/s;\n  \
         upstream u {{ server {upstream}; keepalive 128; keepalive_requests 1000000000; }}\n  \
         server {{ listen {address}; location / {{ proxy_pass http://u; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; }} }}\n}}\n"
    );
    let config = write("nginx.conf", &config)?;
    Server::start("nginx", address, Command::new("nginx").arg("-c").arg(config))
}

/// Envoy with the policies that semel has in the same comparison: retries under a budget, outlier detection, a local
/// rate limit that nobody reaches. JSON, which is YAML.
pub(super) fn envoy(binary: &Path, upstream: SocketAddr) -> Outcome<Server> {
    let address = free_address()?;
    let config = include_str!("envoy.json")
        .replace("LISTEN_PORT", &address.port().to_string())
        .replace("UPSTREAM_PORT", &upstream.port().to_string());
    let config = write("envoy.json", &config)?;
    let mut command = Command::new(binary);
    command.args(["--concurrency", "2", "--log-level", "error", "--disable-hot-restart", "-c"]);
    Server::start("envoy", address, command.arg(config))
}

/// Restate's server and a handler for it.
pub(super) struct Restate {
    pub(super) server: Server,
    _handler: Server,
}

/// Installs the server and the SDK of its handler from the npm registry.
pub(super) fn install_restate() -> Outcome {
    let home = folder().join("restate");
    if home.join("node_modules/@restatedev/restate-sdk").is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(&home).map_err(|error| error.to_string())?;
    std::fs::write(home.join("package.json"), "{\"private\":true,\"type\":\"module\"}").map_err(|e| e.to_string())?;
    let packages = ["@restatedev/restate-server@1", "@restatedev/restate-sdk@1"];
    run(Command::new("npm").current_dir(home).args(["install", "--no-audit", "--no-fund"]).args(packages))
}

pub(super) fn restate(partitions: Option<u32>) -> Outcome<Restate> {
    let home = folder().join("restate");
    std::fs::write(home.join("handler.mjs"), include_str!("handler.mjs")).map_err(|error| error.to_string())?;
    let (handler, ingress, admin, node) = (free_address()?, free_address()?, free_address()?, free_address()?);
    let mut command = Command::new("node");
    command.current_dir(&home).arg("handler.mjs").env("PORT", handler.port().to_string());
    let handler_server = Server::start("restate-handler", handler, &mut command)?;
    let (data, count) = (empty("restate-data")?, partitions.map(|n| format!("default-num-partitions = {n}\n")));
    let config = format!(
        "base-dir = {:?}\nnode-name = \"bench\"\ndisable-telemetry = true\nlisten-mode = \"tcp\"\nlog-filter = \"error\"\n\
         bind-address = \"{node}\"\n{}[ingress]\nbind-address = \"{ingress}\"\n[admin]\nbind-address = \"{admin}\"\n\
         disable-web-ui = true\n",
        data.display().to_string(),
        count.unwrap_or_default()
    );
    let config = write("restate.toml", &config)?;
    // The package's program is a Node script that starts this one; its CPU time is what is measured.
    let binary = home.join(format!("node_modules/@restatedev/restate-server-linux-{}/bin/restate-server", machine()));
    let name = partitions.map_or("restate".to_owned(), |n| format!("restate-{n}"));
    let server = Server::start(&name, ingress, Command::new(binary).arg("-c").arg(config))?;
    register(admin, handler)?;
    Ok(Restate { server, _handler: handler_server })
}

fn register(admin: SocketAddr, handler: SocketAddr) -> Outcome {
    let deployment = format!(r#"{{"uri":"http://{handler}"}}"#);
    let url = format!("http://{admin}/deployments");
    let give_up = Instant::now() + HEALTHY_WAIT;
    loop {
        let mut curl = Command::new("curl");
        curl.args(["-sf", "-m", "10", &url, "-H", "content-type: application/json", "-d", &deployment]);
        match output(&mut curl) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > give_up => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// The name of this machine's architecture among npm packages.
fn machine() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" }
}
