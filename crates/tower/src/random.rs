//! Cheap random numbers for jitter and shares; nothing secret depends on them.

use std::cell::Cell;

thread_local! {
    static STATE: Cell<u64> = Cell::new(seed());
}

fn seed() -> u64 {
    // Without the operating system's randomness two threads may draw alike; the address of a thread's own variable is the
    // best there is then.
    getrandom::u64().unwrap_or_else(|_| std::ptr::from_ref(&()).addr() as u64)
}

/// The next number of this thread's generator, which is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
/// number generators", OOPSLA 2014).
pub(crate) fn next_u64() -> u64 {
    STATE.with(|state| {
        let mut z = state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        state.set(z);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// A number in `0.0..1.0`.
pub(crate) fn unit() -> f64 {
    // 53 bits are what a double holds exactly.
    (next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}
