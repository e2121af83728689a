//! What each policy's layer adds to a call, beside others that do the same job, and the pure decisions under them.
//!
//! Run with `cargo bench -p semel-bench`; allocations are counted too. Each call is made on one ready
//! service and polled by hand, so that no runtime is measured.

mod attempts;
mod decisions;
mod harness;
mod limits;
mod together;

fn main() {
    // Timers need a runtime to belong to; nothing runs on it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    // Reading the time takes as long as what is measured: always over many calls.
    divan::Divan::from_args().sample_size(1_000).main();
}
