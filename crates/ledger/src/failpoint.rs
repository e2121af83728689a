//! Named stop points, so that a crash test can stop the process exactly where it hurts.
//!
//! `SEMEL_FAILPOINT=name=action[@n]`: at the n-th hit (default the first) of `name`, `abort` the process, or let the
//! operation there fail with `eio` or `enospc`. Compiled in only with the feature `failpoints`; it stands here because
//! gateway and engines both stop at them and share nothing else with I/O.

use std::io;

/// A stop point; nothing at all in a shipped binary.
///
/// # Errors
/// What the plan says.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn hit(_name: &'static str) -> io::Result<()> {
    Ok(())
}

/// A stop point.
///
/// # Errors
/// What the plan says.
#[cfg(feature = "failpoints")]
pub fn hit(name: &'static str) -> io::Result<()> {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };
    /// `EIO` and `ENOSPC` on Linux.
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    struct Plan {
        name: String,
        action: String,
        at: u64,
        hits: AtomicU64,
    }
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    let plan = PLAN.get_or_init(|| {
        let text = std::env::var("SEMEL_FAILPOINT").ok()?;
        let (name, rest) = text.split_once('=')?;
        let (action, at) = rest.split_once('@').unwrap_or((rest, "1"));
        Some(Plan { name: name.into(), action: action.into(), at: at.parse().ok()?, hits: AtomicU64::new(0) })
    });
    let Some(plan) = plan.as_ref().filter(|plan| plan.name == name) else { return Ok(()) };
    if plan.hits.fetch_add(1, Ordering::Relaxed) + 1 != plan.at {
        return Ok(());
    }
    match plan.action.as_str() {
        "eio" => Err(io::Error::from_raw_os_error(EIO)),
        "enospc" => Err(io::Error::from_raw_os_error(ENOSPC)),
        _ => std::process::abort(),
    }
}
