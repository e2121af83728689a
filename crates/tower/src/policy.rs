//! How a call is attempted, as layers over the pure state machines of [`semel_core::policy`].
//!
//! Each layer stands alone in any tower stack and wraps any request and response type. A layer that can refuse, or that
//! puts a bound on time, has [`BoxError`](crate::BoxError) as its error, like tower's own: the refusal is a type that the
//! error can be downcast to.
