//! Stands in for the parts of a mapping: the atomics of loom can't lie in shared memory.

use std::ops::Deref;

/// As in `src/region/part.rs`.
///
/// # Safety
/// The implementor consists of atomics and nothing else.
pub(super) unsafe trait Shared: Sync {}

/// Values that threads share.
#[derive(Debug)]
pub(super) struct Part<T>(Box<[T]>);

impl<T: Shared + Default> Part<T> {
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| T::default()).collect())
    }
}

impl<T> Deref for Part<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

// SAFETY: an atomic.
unsafe impl Shared for crate::sync::AtomicU64 {}
