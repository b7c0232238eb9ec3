//! Atomics of `std` whose stores are counted, and of which one can be made the last.

use std::cell::Cell;
use std::sync::atomic::Ordering;

pub use std::hint::spin_loop;
pub use std::sync::atomic::{AtomicBool, fence};

/// They are laid out as the integers that they hold.
pub const IS_MEMORY: bool = true;

thread_local! {
    /// Stores of this thread that will still happen.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// What a thread unwinds with when it is killed.
#[derive(Debug)]
pub struct Killed;

/// Runs something that is killed in place of its store number `stores`, counted from 0. Returns
/// whether it ended before, and how many stores there were.
pub fn kill_at(stores: u64, run: impl FnOnce()) -> (bool, u64) {
    LEFT.set(stores);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let left = LEFT.replace(u64::MAX);
    if let Err(reason) = &result
        && !reason.is::<Killed>()
    {
        panic!("failed by itself, not killed");
    }
    (result.is_ok(), stores - left)
}

fn count_a_store() {
    match LEFT.get() {
        u64::MAX => {}
        0 => std::panic::resume_unwind(Box::new(Killed)),
        left => LEFT.set(left - 1),
    }
}

macro_rules! counted {
    ($name:ident, $integer:ty) => {
        /// As in `std`, for what the engine uses of it.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name(std::sync::atomic::$name);

        impl $name {
            pub const fn new(value: $integer) -> Self {
                Self(std::sync::atomic::$name::new(value))
            }

            pub fn load(&self, order: Ordering) -> $integer {
                self.0.load(order)
            }

            pub fn store(&self, value: $integer, order: Ordering) {
                count_a_store();
                self.0.store(value, order);
            }

            pub fn swap(&self, value: $integer, order: Ordering) -> $integer {
                count_a_store();
                self.0.swap(value, order)
            }

            pub fn fetch_or(&self, value: $integer, order: Ordering) -> $integer {
                count_a_store();
                self.0.fetch_or(value, order)
            }

            pub fn compare_exchange_weak(
                &self,
                old: $integer,
                new: $integer,
                good: Ordering,
                bad: Ordering,
            ) -> Result<$integer, $integer> {
                count_a_store();
                self.0.compare_exchange_weak(old, new, good, bad)
            }
        }
    };
}

counted!(AtomicU32, u32);
counted!(AtomicU64, u64);
