//! The ledger against the suite that every engine must pass, and what is the embedded engine's own.

mod full_disk;
mod harness;
mod own;

semel_ledger::conformance_suite!(harness::Embedded::new());
