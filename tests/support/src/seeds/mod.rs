//! Deterministic simulations of many seeds.
//!
//! A seed decides a plan with a list of faults. A run of the plan keeps every invariant, or tells
//! which one broke. A failure is replayed with the fewest faults that cause it.

mod fault;
mod options;
mod runs;
mod timeline;

pub use fault::{Fault, FaultClass};
pub use options::Options;
pub use runs::{Report, Simulation, Verdict, Violation, hold, repeat, run};
pub use timeline::{Timeline, Trace};

/// Returns a [`Violation`] of the named invariant unless the condition holds.
#[macro_export]
macro_rules! must {
    ($invariant:literal, $condition:expr, $($what:tt)+) => {
        if !$condition {
            let what = format!($($what)+);
            return Err($crate::seeds::Violation { invariant: $invariant, what });
        }
    };
}
