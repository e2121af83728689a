//! `cargo xtask bench`: semel beside its peers, in one run, on loopback, bounded in time.
//!
//! Every comparison interleaves its sides round by round and takes the median, because the machine's neighbours are
//! part of every figure; ratios are what to read. CPU is the proxy's own user and system time per 100,000 requests.

mod load;
mod peers;
mod server;

use crate::packages;
use crate::run::{Outcome, cargo, run};
use load::{Figures, Load, disk_probe};
use server::{Server, empty, semel, stub};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

/// Rounds of each comparison.
const ROUNDS: usize = 3;
/// Requests per second where latency is compared.
const FIXED_RATE: u32 = 4000;
/// Keys that are settled before replays are measured.
const REPLAYED_KEYS: u64 = 1000;

/// What to run.
pub(crate) struct Plan {
    pub(crate) names: Vec<String>,
    pub(crate) seconds: u32,
    pub(crate) records: u64,
    pub(crate) peers: bool,
    pub(crate) out: PathBuf,
}

/// Runs the benchmarks and writes what they came to as markdown.
pub(crate) fn bench(plan: &Plan) -> Outcome {
    let wanted = |name: &str| plan.names.is_empty() || plan.names.iter().any(|wanted| wanted == name);
    if plan.peers && ["forward", "policies", "once"].into_iter().any(wanted) {
        packages::install(packages::FOR_BENCHMARKS);
    }
    run(&mut cargo(&["build", "--profile", "dist", "--locked", "-p", "semel", "-p", "semel-testkit", "--bins"]))?;
    let mut report = Report::default();
    let parts: [(&str, Part); 6] = [
        ("forward", forward),
        ("policies", policies),
        ("once", once),
        ("replay", replay),
        ("single", single),
        ("restart", restart),
    ];
    for (name, part) in parts.into_iter().filter(|(name, _)| wanted(name)) {
        println!("{name}");
        part(plan, &mut report)?;
    }
    println!("\n{}", report.text);
    if let Some(folder) = plan.out.parent() {
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    }
    std::fs::write(&plan.out, &report.text).map_err(|error| format!("{}: {error}", plan.out.display()))
}

type Part = fn(&Plan, &mut Report) -> Outcome;

#[derive(Default)]
struct Report {
    text: String,
}

impl Report {
    fn heading(&mut self, heading: &str, columns: &[&str]) {
        let rule = vec!["---"; columns.len()].join("|");
        let _ = write!(self.text, "\n### {heading}\n\n| {} |\n|{rule}|\n", columns.join(" | "));
    }

    fn row(&mut self, cells: &[String]) {
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    /// A target, what was measured, and whether that is enough.
    fn target(&mut self, what: &str, measured: f64, at_most: Option<f64>, at_least: Option<f64>) {
        let met = at_most.is_none_or(|most| measured <= most) && at_least.is_none_or(|least| measured >= least);
        let bound = at_most.map(|most| format!("≤ {most:.2}")).or(at_least.map(|least| format!("≥ {least:.2}")));
        let (bound, verdict) = (bound.unwrap_or_default(), if met { "met" } else { "**missed**" });
        let _ = writeln!(self.text, "\n{what}: {measured:.2} (target {bound}): {verdict}");
    }

    fn flush_times(&mut self) -> Outcome {
        let (append, in_place) = disk_probe()?;
        let _ =
            writeln!(self.text, "\nDisk at that time: append + fdatasync {append:.0} us, in place {in_place:.0} us.");
        Ok(())
    }
}

fn cells(name: &str, figures: &Figures) -> Vec<String> {
    let Figures { rate, p50_us, p99_us, cpu_s, .. } = figures;
    let name = name.to_owned();
    vec![name, format!("{rate:.0}"), format!("{p50_us:.0}"), format!("{p99_us:.0}"), format!("{cpu_s:.2}")]
}

const COLUMNS: [&str; 5] = ["", "req/s", "p50 us", "p99 us", "CPU s / 100,000"];

/// `loads` on their servers, interleaved; the median of each.
fn interleaved(sides: &[(&Server, Load<'_>)]) -> Outcome<Vec<Figures>> {
    let mut rounds = vec![Vec::new(); sides.len()];
    for round in 0..ROUNDS {
        for ((server, load), figures) in sides.iter().zip(&mut rounds) {
            let run = format!("{}-{round}", load.run);
            figures.push(Load { run: &run, ..*load }.on(server)?);
        }
    }
    Ok(rounds.iter().map(|rounds| Figures::median(rounds)).collect())
}

fn forward(plan: &Plan, report: &mut Report) -> Outcome {
    let stub = stub()?;
    let mut servers = vec![semel(stub.address, &empty("data")?)?];
    if plan.peers {
        servers.push(peers::haproxy(stub.address)?);
        servers.push(peers::nginx(stub.address)?);
    }
    for rate in [None, Some(FIXED_RATE)] {
        let sides: Vec<_> =
            servers.iter().map(|server| (server, Load { rate, ..Load::new("/forward", plan.seconds) })).collect();
        let figures = interleaved(&sides)?;
        let how = rate.map_or("as fast as it goes".to_owned(), |rate| format!("at {rate} req/s"));
        report.heading(&format!("Forward route, 1 KiB POST, 64 connections, {how}"), &COLUMNS);
        for (server, figures) in servers.iter().zip(&figures) {
            report.row(&cells(&server.name, figures));
        }
        let [own, haproxy, ..] = &figures[..] else { continue };
        match rate {
            None => {
                report.target("CPU per request, times haproxy's", own.cpu_s / haproxy.cpu_s, Some(1.3), None);
                let _ = writeln!(report.text, "Rate, times haproxy's: {:.2}", own.rate / haproxy.rate);
            }
            Some(_) => {
                let late_ms = (own.p99_us - haproxy.p99_us) / 1000.0;
                report.target("p99 over haproxy's, ms", late_ms, Some(0.2), None);
            }
        }
    }
    Ok(())
}

fn policies(plan: &Plan, report: &mut Report) -> Outcome {
    let stub = stub()?;
    let semel = semel(stub.address, &empty("data")?)?;
    let load = |path| Load::new(path, plan.seconds);
    let mut sides =
        vec![("semel forward", &semel, load("/forward")), ("semel, every policy", &semel, load("/policies"))];
    let envoy = if plan.peers { Some(peers::envoy(&packages::install_envoy()?, stub.address)?) } else { None };
    if let Some(envoy) = &envoy {
        sides.push(("Envoy, its policies", envoy, load("/policies")));
    }
    let loads: Vec<_> = sides.iter().map(|(_, server, load)| (*server, *load)).collect();
    let figures = interleaved(&loads)?;
    report.heading("Policies on, 1 KiB POST, 64 connections", &COLUMNS);
    for ((name, ..), figures) in sides.iter().zip(&figures) {
        report.row(&cells(name, figures));
    }
    if let [forward, own, envoy] = &figures[..] {
        report.target("CPU per request, times Envoy's", own.cpu_s / envoy.cpu_s, Some(1.0), None);
        let _ = writeln!(report.text, "CPU per request, times the forward route's: {:.2}", own.cpu_s / forward.cpu_s);
    }
    Ok(())
}

fn once(plan: &Plan, report: &mut Report) -> Outcome {
    let stub = stub()?;
    let semel = semel(stub.address, &empty("data")?)?;
    let once = Load { keys: "unique", run: "once", ..Load::new("/once", plan.seconds) };
    let sides = [(&semel, Load::new("/forward", plan.seconds)), (&semel, once)];
    let figures = interleaved(&sides)?;
    report.heading("Once route, unique keys, durable before the answer, 64 connections", &COLUMNS);
    report.row(&cells("semel forward", &figures[0]));
    report.row(&cells("semel once", &figures[1]));
    let rate = figures[1].rate;
    let mut ratios = Vec::new();
    if plan.peers {
        semel.kill();
        peers::install_restate()?;
        for (partitions, times) in [(None, 10.0), (Some(2), 4.0)] {
            let peer = peers::restate(partitions)?;
            let load = Load { keys: "unique", run: "once", ..Load::new("/pay/pay", plan.seconds) };
            let figures = interleaved(&[(&peer.server, load)])?;
            report.row(&cells(&peer.server.name, &figures[0]));
            ratios.push((format!("Rate, times {}'s", peer.server.name), rate / figures[0].rate, times));
        }
    }
    for (what, ratio, times) in ratios {
        report.target(&what, ratio, None, Some(times));
    }
    report.target("Rate, times the forward route's", rate / figures[0].rate, None, Some(0.5));
    report.flush_times()
}

fn replay(plan: &Plan, report: &mut Report) -> Outcome {
    let stub = stub()?;
    let semel = semel(stub.address, &empty("data")?)?;
    let keys = REPLAYED_KEYS.to_string();
    Load { keys: &keys, calls: Some(REPLAYED_KEYS), ..Load::new("/once", plan.seconds) }.on(&semel)?;
    let mut rounds = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        rounds.0.push(Load::new("/forward", plan.seconds).on(&semel)?);
        rounds.1.push(Load { keys: &keys, ..Load::new("/once", plan.seconds) }.on(&semel)?);
    }
    if rounds.1.iter().any(|figures| figures.replayed < figures.calls) {
        return Err("not every answer was a replay".to_owned());
    }
    let (forward, replay) = (Figures::median(&rounds.0), Figures::median(&rounds.1));
    report.heading("Replay of settled keys, 64 connections", &COLUMNS);
    report.row(&cells("semel forward", &forward));
    report.row(&cells("semel replay", &replay));
    report.target("Rate, times the forward route's", replay.rate / forward.rate, None, Some(1.0));
    Ok(())
}

fn single(plan: &Plan, report: &mut Report) -> Outcome {
    let stub = stub()?;
    let semel = semel(stub.address, &empty("data")?)?;
    let alone = |path| Load { connections: 1, ..Load::new(path, plan.seconds) };
    let once = Load { keys: "unique", run: "single", ..alone("/once") };
    let figures = interleaved(&[(&stub, alone("/forward")), (&semel, alone("/forward")), (&semel, once)])?;
    report.heading("One caller alone", &COLUMNS);
    for (name, figures) in ["upstream itself", "semel forward", "semel once"].iter().zip(&figures) {
        report.row(&cells(name, figures));
    }
    report.target(
        "p50 of once over the upstream's own, ms",
        (figures[2].p50_us - figures[0].p50_us) / 1000.0,
        Some(0.8),
        None,
    );
    report.flush_times()
}

fn restart(plan: &Plan, report: &mut Report) -> Outcome {
    let stub = stub()?;
    let data = empty("data")?;
    let filling = semel(stub.address, &data)?;
    let (mut most_mib, mut filled, parts) = (0.0_f64, 0.0, 20);
    let start = Instant::now();
    for part in 0..parts {
        let (run, calls) = (format!("fill-{part}"), plan.records / parts);
        filled += Load { keys: "unique", run: &run, calls: Some(calls), ..Load::new("/once", 1) }.on(&filling)?.calls;
        most_mib = most_mib.max(filling.resident_mib());
    }
    let rate = filled / start.elapsed().as_secs_f64();
    filling.kill();
    let start = Instant::now();
    let restarted = semel(stub.address, &data)?;
    let ready_s = start.elapsed().as_secs_f64();
    let ready_mib = restarted.resident_mib();
    let sample = plan.records / parts / 10;
    let keys = sample.to_string();
    let found = Load { keys: &keys, run: "fill-0", calls: Some(sample), ..Load::new("/once", 1) }.on(&restarted)?;
    if found.replayed < found.calls {
        return Err(format!("of {} settled keys only {} are replayed after kill -9", found.calls, found.replayed));
    }
    report.heading(
        "Restart after kill -9",
        &["records of 1 KiB", "filled per second", "ready in s", "MiB then", "MiB filling"],
    );
    let numbers = [filled, rate, ready_s, ready_mib, most_mib];
    report.row(&numbers.map(|number| format!("{number:.1}")));
    report.target("Ready in, s", ready_s, Some(1.5), None);
    report.target("Resident then, MiB", ready_mib, Some(150.0), None);
    report.target("Resident while filling, MiB", most_mib, Some(150.0), None);
    report.flush_times()
}
