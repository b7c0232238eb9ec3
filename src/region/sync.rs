//! The one place that lock-free code takes its atomics from, so that a model checker can stand in
//! for them: `tests/loom` and `tests/killpoints` compile the files of this crate a second time,
//! with atomics of their own.

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};

/// Whether atomics are laid out as the integers that they hold. Layouts are asserted where they
/// are.
pub(crate) const IS_MEMORY: bool = true;
