//! What is plotted of each scenario.

use super::{
    figure::{Figure, Line, Panel},
    report::Report,
    scenario::{self, BURST, Comparison, END, OUTAGE, WRONG},
    world::Setup,
};

/// Every figure of the documentation: the name of its file without the ending, and its SVG.
#[must_use]
pub fn figures() -> Vec<(&'static str, String)> {
    let mut figures = vec![("retry-storm-load", load_by_failure_rate().svg())];
    figures.extend(PLOTS.iter().map(|plot| (plot.name, plot.figure().svg())));
    figures
}

/// A scenario, second by second.
struct Plot {
    name: &'static str,
    title: &'static str,
    setup: fn() -> Setup,
    wrong: (usize, usize),
    left: Measure,
    right: Measure,
}

/// What is measured each second.
struct Measure {
    title: &'static str,
    of: fn(&Report) -> Vec<f64>,
}

const ANSWERED: Measure = Measure { title: "Calls answered in time, a second", of: Report::goodput };
const ATTEMPTS: Measure = Measure { title: "Attempts at the service, a second", of: Report::attempts };
const FAIR: Measure = Measure { title: "Fair callers' calls answered, a second", of: |report| report.goodput_of(0) };
const LATE: Measure = Measure { title: "Attempts for callers that had gone, a second", of: Report::late };
const SLOWEST: Measure = Measure { title: "Time of the slowest twentieth, ms", of: |report| report.latencies_ms(0.95) };
const WASTED: Measure = Measure { title: "Work for callers that had gone, %", of: Report::wasted_percent };

const PLOTS: &[Plot] = &[
    Plot {
        name: "retry-storm",
        title: "Nine calls in ten fail",
        setup: || scenario::retry_storm(0.9),
        wrong: WRONG,
        left: ANSWERED,
        right: ATTEMPTS,
    },
    Plot {
        name: "metastable-overload",
        title: "Three times the load for ten seconds",
        setup: scenario::metastable_overload,
        wrong: BURST,
        left: ANSWERED,
        right: WASTED,
    },
    Plot {
        name: "slow-upstream",
        title: "All endpoints twelve times slower",
        setup: scenario::slow_upstream,
        wrong: WRONG,
        left: ANSWERED,
        right: WASTED,
    },
    Plot {
        name: "slow-endpoint",
        title: "One endpoint of four twenty times slower",
        setup: scenario::slow_endpoint,
        wrong: WRONG,
        left: SLOWEST,
        right: ATTEMPTS,
    },
    Plot {
        name: "fast-failing-endpoint",
        title: "One endpoint of four fails at once",
        setup: scenario::fast_failing_endpoint,
        wrong: WRONG,
        left: ANSWERED,
        right: ATTEMPTS,
    },
    Plot {
        name: "black-hole",
        title: "One endpoint of four never answers",
        setup: scenario::black_hole,
        wrong: WRONG,
        left: ANSWERED,
        right: SLOWEST,
    },
    Plot {
        name: "all-down",
        title: "No endpoint takes connections",
        setup: scenario::all_down,
        wrong: WRONG,
        left: ANSWERED,
        right: ATTEMPTS,
    },
    Plot {
        name: "short-outage",
        title: "No endpoint for two seconds",
        setup: scenario::short_outage,
        wrong: OUTAGE,
        left: ANSWERED,
        right: ATTEMPTS,
    },
    Plot {
        name: "runaway-client",
        title: "One client makes 500 calls a second",
        setup: scenario::runaway_client,
        wrong: WRONG,
        left: FAIR,
        right: ATTEMPTS,
    },
    Plot {
        name: "deadline-chain",
        title: "Four hops, and a service thirty times slower",
        setup: scenario::deadline_chain,
        wrong: WRONG,
        left: ATTEMPTS,
        right: LATE,
    },
];

impl Plot {
    fn figure(&self) -> Figure {
        let compared = Comparison::of(self.setup);
        let panel = |measure: &Measure| {
            let points =
                |report| (measure.of)(report).into_iter().take(END).enumerate().map(|(at, y)| (at as f64, y)).collect();
            let lines = compared.each().map(|(kind, report)| Line { kind, points: points(report) });
            let wrong = Some((self.wrong.0 as f64, self.wrong.1 as f64));
            Panel { title: measure.title, x_title: "seconds", wrong, lines: lines.into() }
        };
        Figure { title: self.title, panels: vec![panel(&self.left), panel(&self.right)] }
    }
}

/// Attempts for each call, and calls answered, while more and more of them fail.
fn load_by_failure_rate() -> Figure {
    let runs: Vec<_> = (1..=9)
        .map(|tenths| (f64::from(tenths) * 10.0, Comparison::of(|| scenario::retry_storm(f64::from(tenths) / 10.0))))
        .collect();
    let panel = |title, of: fn(&Report) -> f64| {
        let line = |place: usize| {
            let points = runs.iter().map(|(percent, compared)| (*percent, of(compared.each()[place].1))).collect();
            Line { kind: runs[0].1.each()[place].0, points }
        };
        Panel { title, x_title: "calls that fail, %", wrong: None, lines: (0..3).map(line).collect() }
    };
    let load = panel("Attempts for each call", |report| report.load(WRONG.0, WRONG.1));
    let after = panel("Calls answered after the spike, %", |report| 100.0 * report.success(WRONG.1 + 5, END));
    Figure { title: "Half a minute of failures", panels: vec![load, after] }
}
