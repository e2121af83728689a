//! What the admin API asks of the process around it.

use std::{future::Future, pin::Pin, sync::Arc};

use semel_config::Config;
use semel_core::code::Code;
use serde::Serialize;

/// A hook's answer.
pub type HookFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the admin API asks of the process around it.
pub trait Hooks: Send + Sync + 'static {
    /// The configuration in force: it says what a scope's settled answers may keep.
    fn config(&self) -> Arc<Config>;

    /// Loads the configuration again. An `Err` means that the old one stays in force, whole.
    fn reload(&self) -> HookFuture<'_, Result<Reloaded, ReloadRefused>>;

    /// Callers over a rate limit, most often refused first, at most `count_max` of them.
    fn limited(&self, count_max: usize) -> Vec<LimitedCaller>;

    /// Why this process should get no new calls, in words, beside the ledger's health: it is draining, or not yet
    /// ready. Empty when it should.
    fn unready(&self) -> Vec<String>;
}

/// A caller that was refused by a rate limit and is not yet back to all that it may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitedCaller {
    /// The route's name.
    pub route: String,
    /// The limit's name: whom it counts together.
    pub limit: String,
    /// Who, as far as that may be shown.
    pub who: String,
    /// Refusals since it last had all of its units.
    pub refused: u32,
    /// Units left.
    pub left: u32,
    /// Until there is one more, in milliseconds.
    pub wait_ms: u64,
}

/// A configuration was loaded and is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// What changed, or the warnings, in words; may be empty.
    pub notes: String,
}

/// A configuration was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadRefused {
    /// The code of the first finding's remedy page.
    pub code: Code,
    /// All findings, as `semel check` prints them.
    pub report: String,
}
