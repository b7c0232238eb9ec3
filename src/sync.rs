//! The one place that lock-free code takes its atomics from, so that a model checker can stand in
//! for them: `tests/loom` compiles the files of `region` and `engine` that import from here a
//! second time, with the atomics of loom.

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};

/// Whether atomics are laid out as the integers that they hold. Layouts are asserted where they
/// are.
pub(crate) const IS_MEMORY: bool = true;
