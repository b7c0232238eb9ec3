//! The one place that lock-free code takes its atomics from, so that a model checker can stand in
//! for them: `tests/loom` compiles the files of `engine` that import from here a second time, with
//! the atomics of loom.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, fence};
