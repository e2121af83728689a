//! The policies in virtual time: callers, hops and overloaded services as a discrete-event simulation, so that a storm of an
//! hour passes in a second and every run of a seed is the same.
//!
//! What decides is the code that ships, [`semel_core::policy`], composed in the order of the gateway's path of a request.
//! What it stands against are the two stacks that most callers have: none, and a plain retry. A service is what queueing
//! theory makes of one: so many workers, a queue without bound, and no idea that its caller has gone. The network takes
//! no time and one instance of a hop stands for all.

mod clock;
mod figure;
mod hop;
mod plots;
mod report;
mod scenario;
mod service;
mod stack;
mod world;

pub use plots::figures;

#[cfg(test)]
mod tests;
