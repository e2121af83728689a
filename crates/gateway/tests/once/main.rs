//! The contract of one call over real sockets: one test for each row of it.

mod admission;
mod answers;
mod attempts;
mod breakers;
mod chains;
mod consumed;
mod deadlines;
mod duplicates;
mod endpoints;
mod expiry;
mod faults;
mod hedges;
mod keys;
mod lifecycle;
mod limits;
mod principals;
mod probes;
mod rates;
mod refusals;
mod routing;
mod support;
mod unknown;
