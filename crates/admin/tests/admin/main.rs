//! The admin API over real sockets, on the model ledger. Every JSON answer is held against the OpenAPI document.
#![expect(clippy::disallowed_methods, reason = "tests write the files that the server must refuse")]

mod access;
mod connections;
mod document;
mod effects;
mod gateway;
mod ledger;
mod outcome;
mod process;
mod token_file;
