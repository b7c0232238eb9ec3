//! A typed part of a mapping.

use crate::sync::{AtomicU32, AtomicU64};
use std::ops::Deref;
use std::ptr::NonNull;

/// Types that any process may change under us: made of atomics only, valid for every bit pattern,
/// without padding.
///
/// # Safety
/// The implementor consists of atomic integers (and arrays of them) and nothing else.
// SAFETY: whoever implements it says why; the declaration itself does nothing.
pub(super) unsafe trait Shared: Sync {}

// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU32 {}
// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU64 {}

/// A slice of shared values in a mapping. The [`super::Region`] that hands it out keeps the mapping
/// alive.
#[derive(Debug)]
pub(super) struct Part<T> {
    start: NonNull<T>,
    count: usize,
}

// SAFETY: a part gives shared references only, and `Shared` types are `Sync`.
unsafe impl<T: Shared> Send for Part<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Part<T> {}

impl<T: Shared> Part<T> {
    /// # Safety
    /// `start` is aligned for `T`, and `count` values from there on are mapped as long as the part
    /// is used.
    pub(super) unsafe fn new(start: NonNull<T>, count: usize) -> Self {
        Self { start, count }
    }
}

impl<T: Shared> Deref for Part<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `new` required that these values are mapped and aligned; `T` is valid for every
        // bit pattern.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}
