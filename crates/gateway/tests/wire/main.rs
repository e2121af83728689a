//! The wire over real sockets: raw callers, raw upstreams, and the gateway between them.

mod evidence;
mod limits;
mod smuggling;
mod stack;
mod streaming;
mod support;
