//! The whole life of effects in one thread and in virtual time: processes that are killed, a ledger on a log that loses
//! what was not flushed, a line that breaks, an upstream that misbehaves, callers that hang up and repeat.
//!
//! One seed is one run: first everything may fail and nothing may be done twice; then nothing fails any more and
//! everything must heal. `SEMEL_SIM_SEED=7` runs that seed alone, `SEMEL_SIM_RUNS=10000` runs more of them.

mod executor;
mod history;
mod judge;
mod run;
mod upstream;

use history::History;
use run::{Sabotage, Setting, run};

/// Runs by default: in all modes together.
const RUNS: u64 = 300;
/// Many times what any sabotage has needed.
const SABOTAGED_RUNS_MAX: usize = 1000;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {value}")))
}

/// One run in a runtime of its own, so that nothing of it is left for the next.
fn simulate(seed: u64, sabotage: Sabotage) -> (Setting, History) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(run(seed, sabotage))
}

#[test]
fn nothing_happens_twice_and_everything_heals() {
    let runs = number("SEMEL_SIM_RUNS").unwrap_or(RUNS);
    let seeds = number("SEMEL_SIM_SEED").map_or(0..runs, |seed| seed..seed + 1);
    let is_whole = seeds.end - seeds.start >= RUNS;
    let mut sum = judge::Sum::default();
    for seed in seeds {
        let (setting, history) = simulate(seed, Sabotage::None);
        match judge::judge(&setting, &history) {
            Ok(counted) => sum += counted,
            Err(broken) => panic!(
                "{broken}\n{setting:?}\nseed {seed} alone: \
                 SEMEL_SIM_SEED={seed} cargo test -p semel-tower --test simulation nothing_happens"
            ),
        }
    }
    println!("{sum:?}");
    // A simulation in which little happens proves little.
    for (what, count) in sum.counts().filter(|_| is_whole) {
        assert!(count > 20, "{what} happened only {count} times: {sum:?}");
    }
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    for seed in 0..30 {
        let (_, first) = simulate(seed, Sabotage::None);
        let (_, second) = simulate(seed, Sabotage::None);
        assert!(format!("{first:?}") == format!("{second:?}"), "two runs of seed {seed} differ");
    }
}

/// The judge must notice what breaks the promise.
#[test]
fn sabotage_is_found_out() {
    // With the seeds' remainder by 6 that makes it harmful, if not all do: the three modes, with a shared ledger or not.
    let cases = [
        (Sabotage::UpstreamLies, 0, 1),
        (Sabotage::UpstreamForgets, 1, 3),
        (Sabotage::ClaimsUnflushed, 0, 1),
        (Sabotage::SettlementsUnflushed, 0, 1),
        // Two owners at a time, and an upstream that is asked: otherwise other guards stand before this one.
        (Sabotage::FencesIgnored, 2, 6),
        (Sabotage::LeaseIgnored, 2, 6),
    ];
    for (sabotage, first, step) in cases {
        let found = (first..).step_by(step).take(SABOTAGED_RUNS_MAX).find_map(|seed| {
            let (setting, history) = simulate(seed, sabotage);
            judge::judge(&setting, &history).err().map(|broken| (seed, broken))
        });
        let (seed, broken) = found.unwrap_or_else(|| panic!("{sabotage:?} was not found out"));
        println!("{sabotage:?} at seed {seed}: {}", broken.lines().next().unwrap_or_default());
    }
}
