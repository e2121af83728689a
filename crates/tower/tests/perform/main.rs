//! The life of a call over the model ledger, in virtual time, with an executor that does what the test says.

mod duplicates;
mod ledger_faults;
mod ownership;
mod support;
mod table;
mod unknown;
