//! The rooms of the engine that write shared memory, compiled once more with atomics that can fail
//! to survive a store: whoever arms them ends, by unwinding, in place of the store that was chosen,
//! as a process does that is killed there. What was stored before stays.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::new_without_default,
    clippy::missing_errors_doc,
    reason = "the tests use a part of what the files of the engine offer"
)]

pub use heartline::internals::{clock, exchange, limits};
pub use heartline_wire as wire;

#[path = "../../../src/region/lib.rs"]
pub mod region;
#[path = "../../../src/registrar/mod.rs"]
pub mod registrar;
/// Stands in for `src/sync.rs`.
pub mod sync;
