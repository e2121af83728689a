//! Each policy's layer keeps the contract of a tower service, alone and with others.

mod balance;
mod deadline;
mod gate;
mod hedge;
mod policies;
mod retry;
mod strict;
