//! The one place that lock-free code takes its atomics from, so that a model checker can stand in
//! for them: `tests/loom` compiles the publication a second time, with atomics of its own.

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::{AtomicU64, fence};

/// Buffers in turn. A reader is disturbed only if the writer publishes so many times less one while
/// the reader reads.
pub(crate) const BUFFERS: usize = 4;
/// Words of the smallest buffers: 2 KiB.
pub(crate) const CLASS_0_WORDS: usize = 256;
