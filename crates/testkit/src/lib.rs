//! Test parts: flaky upstream, effect oracle, crashing disk, simulated clock. A dev-dependency only.
