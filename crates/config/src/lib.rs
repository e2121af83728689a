//! From a TOML file to a validated, effective configuration, with the origin of each value.
//!
//! [`load`] does no I/O: reading the file and reaching what it names is for the binary. Every finding says what, where
//! and what to do, and as many as possible are reported at once.

mod builtin;
mod diagnostic;
mod effective;
mod explain;
mod origin;
mod raw;
mod resolve;
mod source;
mod syntax;

pub use builtin::{Dev, STARTER, dev};
pub use diagnostic::{Colour, Diagnostic, Report, Severity};
pub use effective::*;
pub use explain::{Explanation, NoRoute, explain};
pub use origin::{Origin, Setting};
pub use source::Position;

use source::Source;

/// Parses, validates and resolves a configuration. `name` is what findings call the file.
///
/// The report beside a configuration has warnings only.
///
/// # Errors
/// The report of all findings when at least one is an error.
pub fn load(name: &str, text: &str) -> Result<(Config, Report), Report> {
    let source = Source::veiled(name, text);
    let (config, found) = match raw::read(text) {
        Ok(file) => resolve::resolve(file, &source),
        Err(found) => (None, found),
    };
    let report = Report::new(source, found);
    match config {
        Some(config) => Ok((config, report)),
        None => Err(report),
    }
}

/// Whether `text` could be the name of an upstream, a profile or a scope.
///
/// # Errors
/// Why not, in words.
pub fn check_name(text: &str) -> Result<(), String> {
    raw::value::name(text)
}
