//! semel makes every effect happen once: a gateway in front of any HTTP service. This crate is the binary: CLI and wiring.
fn main() {}
