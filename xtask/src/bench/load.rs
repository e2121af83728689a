//! Runs of `semel-load`.

use super::server::{Server, folder, release};
use crate::run::{Outcome, output};
use serde_json::Value;
use std::net::SocketAddr;

/// What a run of callers came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) rate: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) cpu_s: f64,
    pub(super) calls: f64,
    pub(super) replayed: f64,
}

/// A run of callers.
#[derive(Clone, Copy)]
pub(super) struct Load<'a> {
    pub(super) path: &'a str,
    pub(super) connections: u32,
    pub(super) seconds: u32,
    pub(super) rate: Option<u32>,
    /// `none`, `unique`, or how many.
    pub(super) keys: &'a str,
    /// Makes this run's keys differ from another's.
    pub(super) run: &'a str,
    pub(super) calls: Option<u64>,
}

impl<'a> Load<'a> {
    pub(super) const fn new(path: &'a str, seconds: u32) -> Self {
        Self { path, connections: 64, seconds, rate: None, keys: "none", run: "run", calls: None }
    }

    /// Loads `server`. Any answer that is not 2xx makes it an error: a refusal is fast and worth nothing.
    pub(super) fn on(&self, server: &Server) -> Outcome<Figures> {
        self.at(server.address, Some(server.pid()), &server.name)
    }

    pub(super) fn at(&self, address: SocketAddr, pid: Option<u32>, name: &str) -> Outcome<Figures> {
        let mut command = release("semel-load");
        command.args(["run", "--target", &address.to_string(), "--path", self.path, "--keys", self.keys]);
        command.args(["--run", self.run, "--connections", &self.connections.to_string()]);
        command.args(["--seconds", &self.seconds.to_string()]);
        if let Some(rate) = self.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        if let Some(calls) = self.calls {
            command.args(["--calls", &calls.to_string()]);
        }
        if let Some(pid) = pid {
            command.args(["--pid", &pid.to_string()]);
        }
        let report: Value = serde_json::from_str(&output(&mut command)?).map_err(|error| error.to_string())?;
        let number = |key: &str| report[key].as_f64().unwrap_or(0.0);
        let bad = report["statuses"].as_object().into_iter().flatten().find(|(status, _)| !status.starts_with('2'));
        if bad.is_some() || number("errors") > 0.0 || number("calls") == 0.0 {
            return Err(format!("{name} {}: {report}", self.path));
        }
        let figures = Figures {
            rate: number("rate"),
            p50_us: number("p50_us"),
            p99_us: number("p99_us"),
            cpu_s: number("cpu_s_per_100k"),
            calls: number("calls"),
            replayed: number("replayed"),
        };
        println!("  {name} {} keys={}: {figures:?}", self.path, self.keys);
        Ok(figures)
    }
}

/// Microseconds of one flush on this disk now: `(append, in place)`.
pub(super) fn disk_probe() -> Outcome<(f64, f64)> {
    let report = output(release("semel-load").arg("probe").arg("--folder").arg(folder()))?;
    let report: Value = serde_json::from_str(&report).map_err(|error| error.to_string())?;
    let number = |key: &str| report[key].as_f64().unwrap_or(0.0);
    Ok((number("append_p50_us"), number("in_place_p50_us")))
}

impl Figures {
    /// The middle of several rounds, figure by figure: one round's noise is not a result.
    pub(super) fn median(rounds: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> f64| {
            let mut all: Vec<f64> = rounds.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or(0.0)
        };
        Self {
            rate: middle(|f| f.rate),
            p50_us: middle(|f| f.p50_us),
            p99_us: middle(|f| f.p99_us),
            cpu_s: middle(|f| f.cpu_s),
            calls: middle(|f| f.calls),
            replayed: middle(|f| f.replayed),
        }
    }
}
