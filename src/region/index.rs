//! Open addressing with linear probing: one writer, readers that never lock, no tombstones.
//!
//! A bucket is one word: 32 bits of the hash and the value plus one; 0 is empty. Values are found
//! again by comparing the key they stand for, so equal hash bits cost a comparison, never a
//! mistake. Deleting shifts later entries back (Knuth, TAOCP 3, section 6.4, algorithm R) and
//! counts `moves`: a reader that found nothing while something moved looks again.

use super::part::Part;
use super::prefetch::prefetch;
use super::right::Right;
use super::seqlock::Sequence;
use super::service_number::ServiceNumber;
use crate::limits::{PROBES_MAX, READ_RETRIES};
use crate::sync::{AtomicU64, spin_loop};
use crate::wire::Slot;
use std::marker::PhantomData;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The writer kept disturbing a read; the answer is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disturbed;

impl std::fmt::Display for Disturbed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the engine changed what was read, during each try")
    }
}

impl std::error::Error for Disturbed {}

/// Where an instance belongs in the index of one region.
#[derive(Clone, Copy, Debug)]
pub struct Identity(u64);

impl Identity {
    pub(super) fn new(hash: u64) -> Self {
        Self(hash)
    }

    pub(super) fn hash(&self) -> u64 {
        self.0
    }
}

/// No bucket within [`PROBES_MAX`] of where the key belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexFull;

/// What an index leads to: numbers below `u32::MAX`.
pub(super) trait IndexValue: Copy + PartialEq {
    fn from_number(number: u32) -> Self;
    fn number(self) -> u32;
}

impl IndexValue for Slot {
    #[inline]
    fn from_number(number: u32) -> Self {
        Self::new(number)
    }

    #[inline]
    fn number(self) -> u32 {
        self.get()
    }
}

impl IndexValue for ServiceNumber {
    #[inline]
    fn from_number(number: u32) -> Self {
        Self::new(number)
    }

    #[inline]
    fn number(self) -> u32 {
        self.get()
    }
}

/// A hash index from keys that it doesn't hold to values.
#[derive(Debug)]
pub(super) struct HashIndex<V> {
    buckets: Part<AtomicU64>,
    /// The sequence lock that deletions run under. A reader that found something need not look at
    /// it.
    moves: Part<Sequence>,
    mask: usize,
    values: PhantomData<V>,
}

// SAFETY: a sequence is an atomic integer.
unsafe impl super::part::Shared for Sequence {}

fn bucket(hash: u64, value: impl IndexValue) -> u64 {
    hash << 32 | u64::from(value.number() + 1)
}

#[inline]
fn value<V: IndexValue>(bucket: u64) -> V {
    V::from_number((bucket as u32).wrapping_sub(1))
}

impl<V: IndexValue> HashIndex<V> {
    /// An index over these buckets, a power of two of them.
    pub(super) fn new(buckets: Part<AtomicU64>, moves: Part<Sequence>) -> Self {
        assert!(buckets.len().is_power_of_two());
        Self { mask: buckets.len() - 1, buckets, moves, values: PhantomData }
    }

    /// Where entries with these hash bits belong.
    fn home(&self, bucket: u64) -> usize {
        (bucket >> 32) as usize & self.mask
    }

    /// Asks for the cache line in which a key will be looked for.
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets[self.home(hash << 32)]);
    }

    /// Finds the value whose key `is_key` recognises. `is_key` answers `None` when it could not
    /// read the key.
    #[inline]
    pub(super) fn find(
        &self,
        hash: u64,
        mut is_key: impl FnMut(V) -> Option<bool>,
    ) -> Result<Option<V>, Disturbed> {
        for _ in 0..READ_RETRIES {
            let mut disturbed = false;
            let mut look = |value| {
                is_key(value).unwrap_or_else(|| {
                    disturbed = true;
                    false
                })
            };
            // What is found was compared with its key, and needs no other proof where slots rest
            // until every reader has passed (the engine's loops, and the writer itself); that
            // nothing was found needs one that nothing moved.
            let seen = self.moves[0].enter();
            #[expect(
                clippy::redundant_closure,
                reason = "a reference to a closure is not inlined without link-time optimisation"
            )]
            if let Some((_, value)) = self.probe(hash, |value| look(value)) {
                return Ok(Some(value));
            }
            if !disturbed && seen.is_some_and(|seen| self.moves[0].is_unchanged(seen)) {
                return Ok(None);
            }
            spin_loop();
        }
        Err(Disturbed)
    }

    #[inline]
    fn probe(&self, hash: u64, mut is_key: impl FnMut(V) -> bool) -> Option<(usize, V)> {
        let home = self.home(hash << 32);
        for step in 0..PROBES_MAX {
            let at = (home + step) & self.mask;
            // Acquire: pairs with the release store of `insert`; what the value stands for was
            // written before.
            let word = self.buckets[at].load(Acquire);
            if word == 0 {
                return None;
            }
            if word >> 32 == hash & 0xFFFF_FFFF && is_key(value(word)) {
                return Some((at, value(word)));
            }
        }
        None
    }

    /// Forgets every key.
    pub(super) fn clear(&self, right: &Right) {
        self.moves[0].mend(right);
        self.moves[0]
            .write(right, || self.buckets.iter().for_each(|bucket| bucket.store(0, Relaxed)));
    }

    /// Adds a value whose key is not there yet.
    pub(super) fn insert(&self, _: &Right, hash: u64, value: V) -> Result<(), IndexFull> {
        let home = self.home(hash << 32);
        for step in 0..PROBES_MAX.min(self.buckets.len() - 1) {
            let slot = &self.buckets[(home + step) & self.mask];
            if slot.load(Relaxed) == 0 {
                slot.store(bucket(hash, value), Release);
                return Ok(());
            }
        }
        Err(IndexFull)
    }

    /// Replaces one value by another under the same key.
    pub(super) fn replace(&self, _: &Right, hash: u64, from: V, to: V) {
        if let Some((at, _)) = self.probe(hash, |value| value == from) {
            self.buckets[at].store(bucket(hash, to), Release);
        }
    }

    /// Removes a value.
    pub(super) fn remove(&self, right: &Right, hash: u64, gone: V) {
        let Some((mut hole, _)) = self.probe(hash, |value| value == gone) else { return };
        self.moves[0].write(right, || {
            let mut at = hole;
            loop {
                at = (at + 1) & self.mask;
                let word = self.buckets[at].load(Relaxed);
                if word == 0 {
                    break;
                }
                // The entry may fill the hole unless its home lies behind the hole.
                let from_home = at.wrapping_sub(self.home(word)) & self.mask;
                let from_hole = at.wrapping_sub(hole) & self.mask;
                if from_home >= from_hole {
                    self.buckets[hole].store(word, Release);
                    hole = at;
                }
            }
            self.buckets[hole].store(0, Release);
        });
    }
}
