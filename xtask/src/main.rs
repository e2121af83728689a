//! Build, test and benchmark chores: cargo xtask --help.
fn main() {}
