//! Tests of the store through its public interface.

mod crash;
mod damage;
mod kv;
mod model;
mod opening;
mod power;
mod repair;
mod writers;

mod expiry;
