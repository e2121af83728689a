//! One line per call on a keyed route, and a summary: what `semel dev` shows.

use std::collections::HashSet;
use std::fmt;
use std::io::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use semel_core::headers::IDEMPOTENCY_KEY;
use semel_core::scope::EffectId;
use semel_core::time::Timestamp;
use semel_ledger::Ledger;
use semel_tower::{CallResult, Observe, Report};

use crate::demo::Demo;

/// Lines that wait for a slow terminal; more are counted but not shown.
const LINES_MAX: usize = 4096;
/// Distinct effects that are told apart in the summary.
const EFFECTS_MAX: usize = 1_000_000;

/// Tells what becomes of calls.
pub(crate) struct Narrator {
    lines: SyncSender<Line>,
    ledger: Arc<dyn Ledger>,
    demo: Option<Arc<Demo>>,
    counts: Arc<Mutex<Counts>>,
}

/// What happened so far.
#[derive(Debug, Default)]
struct Counts {
    calls: u64,
    replayed: u64,
    unknown: u64,
    effects: HashSet<EffectId>,
}

/// What a line says.
struct Line {
    at: Timestamp,
    call: String,
    key: String,
    result: CallResult,
    status: Option<u16>,
    attempts: u32,
    charges: Option<u64>,
}

impl Narrator {
    /// Starts the thread that prints; it ends when the narrator is dropped.
    pub(crate) fn start(ledger: Arc<dyn Ledger>, demo: Option<Arc<Demo>>) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (lines, waiting) = sync_channel(LINES_MAX);
        let printer = std::thread::Builder::new().name("semel-lines".to_owned()).spawn(move || print(&waiting))?;
        Ok((Self { lines, ledger, demo, counts: Arc::default() }, printer))
    }

    /// The last line.
    pub(crate) fn summary(&self) -> String {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let plural = |n: u64, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        let effects = counts.effects.len() as u64;
        let mut summary = format!("{}, {}", plural(counts.calls, "call"), plural(effects, "effect"));
        if counts.replayed > 0 {
            summary += &format!(", {} replayed", counts.replayed);
        }
        if counts.unknown > 0 {
            summary += &format!(", {} unknown", counts.unknown);
        }
        if let Some(demo) = &self.demo {
            summary += &format!(", {}", plural(demo.keyed_charges().saturating_sub(effects), "duplicate"));
        }
        summary + "."
    }
}

impl Observe for Narrator {
    fn concluded(&self, report: &Report<'_>) {
        let request = report.request;
        let upstream_key = self.ledger.secret().upstream_key(request.id);
        {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.calls += 1;
            match report.result {
                CallResult::Replayed | CallResult::Joined => counts.replayed += 1,
                CallResult::Unknown => counts.unknown += 1,
                CallResult::Executed | CallResult::NotExecuted | CallResult::Refused(_) => {}
            }
            let sent = matches!(report.result, CallResult::Executed | CallResult::Unknown);
            if sent && counts.effects.len() < EFFECTS_MAX {
                counts.effects.insert(request.id);
            }
        }
        let message = &request.message;
        let key = message.headers.get(IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok());
        let line = Line {
            at: self.ledger.now(),
            call: format!("{} {}", message.method, message.uri.path()),
            key: key.unwrap_or("-").to_owned(),
            result: report.result,
            status: report.status.map(|status| status.as_u16()),
            attempts: report.attempts,
            charges: self.demo.as_ref().map(|demo| demo.charges_of(upstream_key.as_str())),
        };
        // A terminal that does not keep up costs lines, never a caller's time.
        drop(self.lines.try_send(line));
    }
}

fn print(waiting: &Receiver<Line>) {
    let mut out = anstream::stdout().lock();
    while let Ok(line) = waiting.recv() {
        if writeln!(out, "{line}").is_err() {
            return;
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at.as_millis() / 1000 % 86_400;
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let colour = match self.result {
            CallResult::Executed => "\x1b[32m",
            CallResult::Replayed | CallResult::Joined => "\x1b[36m",
            CallResult::Unknown => "\x1b[1;31m",
            CallResult::NotExecuted | CallResult::Refused(_) => "\x1b[33m",
        };
        let status = self.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        write!(f, "{hours:02}:{minutes:02}:{seconds:02}  {}  {}", self.call, self.key)?;
        write!(f, "  {colour}{}\x1b[0m  {status}  attempts={}", self.result.as_str(), self.attempts)?;
        match self.charges {
            Some(charges) => write!(f, "  charges={charges}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_became_of_a_call() {
        let line = Line {
            at: Timestamp::from_millis(((12 * 60) * 60 + 3) * 1000),
            call: "POST /pay".to_owned(),
            key: "a1".to_owned(),
            result: CallResult::Executed,
            status: Some(201),
            attempts: 2,
            charges: Some(1),
        };
        let plain = line.to_string().replace("\x1b[32m", "").replace("\x1b[0m", "");
        assert_eq!(plain, "12:00:03  POST /pay  a1  executed  201  attempts=2  charges=1");
    }
}
