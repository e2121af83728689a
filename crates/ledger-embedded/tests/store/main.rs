//! Tests of the store through its public interface.

mod damage;
mod kv;
mod model;
mod opening;

mod expiry;
