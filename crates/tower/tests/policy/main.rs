//! Each policy's layer keeps the contract of a tower service, alone and with others.

mod contract;
mod deadline;
mod gate;
mod hedge;
mod retry;
mod strict;
