//! Tests of the store through its public interface.

mod kv;
mod model;
mod opening;

mod expiry;
