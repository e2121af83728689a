//! From a TOML file to a validated, effective configuration, with the origin of each value.
