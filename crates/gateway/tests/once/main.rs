//! The contract of one call over real sockets: one test for each row of it.

mod consumed;
mod duplicates;
mod keys;
mod refusals;
mod support;
mod unknown;
