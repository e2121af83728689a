//! The ledger against the suite that every engine must pass, and what is the embedded engine's own.

mod harness;
mod own;

semel_ledger::conformance_suite!(harness::Embedded::new());
