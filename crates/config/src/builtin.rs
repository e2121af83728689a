//! The files semel brings along: the starter of `semel init`, and what `semel dev` runs on.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

/// What `semel init` writes: commented, and valid as it is.
pub const STARTER: &str = include_str!("starter.toml");

/// What `semel dev` needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Dev<'a> {
    /// Where callers are served.
    pub http: SocketAddr,
    /// Where operators are served.
    pub admin: SocketAddr,
    /// A folder for the ledger.
    pub data: &'a Path,
    /// `http://host:port` of the service behind the gateway.
    pub upstream: &'a str,
    /// Whether that service is the demo, which honours keys.
    pub demo: bool,
    /// Whether attempts fail on purpose.
    pub chaos: bool,
}

/// The configuration of `semel dev`, as a file's text: it can be explained and checked like any other.
///
/// Every POST and PATCH that carries a key happens once; without one it passes through. PUT and DELETE are retried, GET is
/// retried and streamed, the rest passes through. All callers share their keys, because in development nobody has
/// credentials yet.
#[must_use]
pub fn dev(options: &Dev<'_>) -> String {
    let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let (http, admin) = (options.http, options.admin);
    let mut out = format!("listen = {{ http = \"{http}\", admin = \"{admin}\" }}\n");
    let _ = writeln!(
        out,
        "ledger.embedded = {{ path = {}, disk_reserve = \"64MiB\" }}",
        quote(&options.data.to_string_lossy())
    );
    // The lines of `semel dev` itself say what happens; the log only what goes wrong.
    out.push_str("log.filter = \"warn\"\n");
    let _ = writeln!(out, "\n[upstream.dev]\nurls = [{}]", quote(options.upstream));
    out.push_str(if options.demo { DEMO_PROFILE } else { DEV_PROFILE });
    if options.chaos {
        out.push_str(DEV_CHAOS);
    }
    out.push_str(DEV_ROUTES);
    out
}

const DEMO_PROFILE: &str = r#"
[profile.dev]
idempotency = { required = false, principal = "none", on_unknown = "retry", upstream_keep = "24h" }
timeout     = { total = "10s", attempt = "2s" }
"#;

const DEV_PROFILE: &str = r#"
[profile.dev]
idempotency = { required = false, principal = "none" }
"#;

/// Rare enough that three attempts nearly always succeed, often enough to be seen within a minute by hand.
const DEV_CHAOS: &str = r#"fault       = { delay = "300ms 20%", abort = "503 10%", truncate = "8B 5%" }
"#;

const DEV_ROUTES: &str = r#"
[[route]]
match  = "POST,PATCH /{*path}"
to     = "dev"
effect = "once"
use    = "dev"

[[route]]
match  = "PUT,DELETE /{*path}"
to     = "dev"
effect = "idempotent"
use    = "dev"

[[route]]
match  = "GET /{*path}"
to     = "dev"
effect = "read"
use    = "dev"

[[route]]
match  = "* /{*path}"
to     = "dev"
effect = "forward"
use    = "dev"
"#;
