//! The admin API for operators, metrics and health.
