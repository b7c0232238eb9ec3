//! A sequence lock: one writer, any number of readers that never stop it.
//!
//! The protected words are atomics read and written relaxed; the fences below order them against
//! the sequence (H.-J. Boehm, "Can seqlocks get along with programming language memory models?",
//! MSPC 2012, figure 6).

use super::right::Right;
use crate::limits::READ_RETRIES;
use crate::sync::{AtomicU32, fence, spin_loop};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Odd while the writer is inside.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Sequence(AtomicU32);

impl Sequence {
    /// Runs `read` until no writer was inside meanwhile. `None` after [`READ_RETRIES`] disturbed
    /// tries.
    #[inline]
    pub fn read<R>(&self, read: impl FnMut() -> R) -> Option<R> {
        self.read_within(READ_RETRIES, read)
    }

    /// The same with fewer tries, for long reads.
    #[inline]
    pub fn read_within<R>(&self, tries: u32, mut read: impl FnMut() -> R) -> Option<R> {
        for _ in 0..tries {
            if let Some(before) = self.enter() {
                let value = read();
                if self.is_unchanged(before) {
                    return Some(value);
                }
            }
            spin_loop();
        }
        None
    }

    /// Begins a read: the sequence as it is, unless a writer is inside.
    #[inline]
    pub fn enter(&self) -> Option<u32> {
        // Acquire: pairs with the release store that ends a write.
        let before = self.0.load(Acquire);
        (before & 1 == 0).then_some(before)
    }

    /// Ends a read: whether no writer was inside since it began.
    #[inline]
    pub fn is_unchanged(&self, before: u32) -> bool {
        // The fence keeps the reads above it; pairs with the fence in `write`.
        fence(Acquire);
        self.0.load(Relaxed) == before
    }

    /// Ends a write that its writer did not live to end. What it protects may be half written.
    pub fn mend(&self, _: &Right) {
        let sequence = self.0.load(Relaxed);
        self.0.store(sequence.wrapping_add(sequence & 1), Release);
    }

    /// Runs `write` with readers shut out. Not reentrant.
    #[inline]
    pub fn write<R>(&self, _: &Right, write: impl FnOnce() -> R) -> R {
        let before = self.0.load(Relaxed);
        debug_assert!(before & 1 == 0, "a write inside a write");
        self.0.store(before.wrapping_add(1), Relaxed);
        // The fence keeps the writes below it; pairs with the fence in `read`.
        fence(Release);
        let value = write();
        // Release: pairs with the acquire load in `read`.
        self.0.store(before.wrapping_add(2), Release);
        value
    }

    /// Begins a long write. [`Self::end`] belongs to it.
    pub(super) fn begin(&self, _: &Right) {
        let before = self.0.load(Relaxed);
        debug_assert!(before & 1 == 0, "a write inside a write");
        self.0.store(before.wrapping_add(1), Relaxed);
        // As in `write`.
        fence(Release);
    }

    /// Ends it.
    pub(super) fn end(&self, right: &Right) {
        // What an interrupted write is ended with, too; release, as in `write`.
        self.mend(right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64};

    #[test]
    fn readers_see_whole_writes_only() {
        let sequence = Sequence::default();
        let words = [const { AtomicU64::new(0) }; 8];
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let right = Right::new();
                let mut round = 0;
                while !stop.load(Relaxed) {
                    round += 1;
                    sequence
                        .write(&right, || words.iter().for_each(|word| word.store(round, Relaxed)));
                }
            });
            let (mut whole, mut torn) = (0, false);
            // Not before the writer is at work, or nothing would be read under writes.
            while whole < 200_000 {
                if let Some(seen) =
                    sequence.read(|| std::array::from_fn::<u64, 8, _>(|at| words[at].load(Relaxed)))
                {
                    torn |= seen.iter().any(|&word| word != seen[0]);
                    whole += u32::from(seen[0] > 0);
                }
            }
            stop.store(true, Relaxed);
            assert!(!torn);
        });
    }
}
