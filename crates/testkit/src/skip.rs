//! Saying aloud that a test could not run here.

use std::fs::File;
use std::io::Write;

/// Prints `SKIPPED: reason` and, under `cargo xtask test`, adds it to the list that is shown at the end: a test that
/// did not run must not look like one that passed.
pub fn skipped(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("SKIPPED: {test}: {reason}");
    if let Some(list) = std::env::var_os("SEMEL_SKIPPED") {
        let list = File::options().create(true).append(true).open(list);
        if let Err(error) = list.and_then(|mut list| writeln!(list, "{test}: {reason}")) {
            eprintln!("the list of skipped tests cannot be written: {error}");
        }
    }
}
