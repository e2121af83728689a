//! The effect's state machine: every command in every state that can be reached, every interleaving of two owners, an
//! operator, a probe and the upstream on one key, and arbitrary records.

mod alphabet;
mod arbitrary;
mod law;
mod properties;
mod protocol;
mod protocol_world;
