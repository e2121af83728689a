//! One file per subcommand.

pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod explain;
pub(crate) mod init;
pub(crate) mod ledger;
pub(crate) mod run;
