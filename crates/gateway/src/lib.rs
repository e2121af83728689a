//! The HTTP gateway: listener, routing, effects, policies, upstream.
