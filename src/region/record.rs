//! The rarely written facts of an instance.

use super::Writer;
use super::seqlock::Sequence;
use super::view::{Shared, View};
use crate::limits::ATTRIBUTES_BYTES_MAX;
use crate::sync::{AtomicU32, AtomicU64};
use crate::wire::{Label, Name};
use std::sync::atomic::Ordering::Relaxed;

/// The fixed part of a record as it lies in memory.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct RecordHead {
    sequence: Sequence,
    attributes_len: AtomicU32,
    /// The nonce of the lease that this one replaced; 0 for none. It opens nothing any more.
    replaced_nonce: AtomicU64,
    /// The IP address that registered the instance.
    source: [AtomicU64; 2],
    zone: [AtomicU64; 4],
    instance: [AtomicU64; 8],
}

// SAFETY: atomics only.
unsafe impl Shared for RecordHead {}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<RecordHead>() == 128);
    assert!(offset_of!(RecordHead, attributes_len) == 4);
    assert!(offset_of!(RecordHead, replaced_nonce) == 8);
    assert!(offset_of!(RecordHead, source) == 16);
    assert!(offset_of!(RecordHead, zone) == 32);
    assert!(offset_of!(RecordHead, instance) == 64);
};

impl RecordHead {
    #[inline]
    fn record(&self) -> Record {
        Record {
            replaced_nonce: self.replaced_nonce.load(Relaxed),
            source: load_bytes(&self.source),
            zone: Label::from_array(load_bytes(&self.zone)),
            instance: Name::from_array(load_bytes(&self.instance)),
        }
    }
}

/// A copy of a record, without its attributes.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// The nonce of the lease that this one replaced; 0 for none.
    pub replaced_nonce: u64,
    /// The IP address that registered the instance.
    pub source: [u8; 16],
    /// Its zone.
    pub zone: Label,
    /// Its name.
    pub instance: Name,
}

/// The records of all slots.
#[derive(Debug)]
pub struct Records {
    heads: View<RecordHead>,
    tails: View<AtomicU64>,
    tail_words: usize,
}

impl Records {
    pub(super) fn new(heads: View<RecordHead>, tails: View<AtomicU64>, tail_words: usize) -> Self {
        Self { heads, tails, tail_words }
    }

    fn tail(&self, slot: u32) -> &[AtomicU64] {
        let start = slot as usize * self.tail_words;
        self.tails.get(start..start + self.tail_words).unwrap_or(&[])
    }

    /// Copies a record. `None` when the slot is out of range or the writer kept disturbing.
    pub fn read(&self, slot: u32) -> Option<Record> {
        let head = self.heads.get(slot as usize)?;
        head.sequence.read(|| head.record())
    }

    /// Runs `read`, which may look at everything about a member, until the writer did not disturb it. `None` as for [`Self::read`].
    pub fn read_locked<R>(&self, slot: u32, read: impl FnMut() -> R) -> Option<R> {
        self.heads.get(slot as usize)?.sequence.read(read)
    }

    /// Copies a record and its attributes. To be called inside [`Self::read_locked`].
    pub fn copy(&self, slot: u32, buffer: &mut [u8; ATTRIBUTES_BYTES_MAX]) -> (Record, usize) {
        let head = &self.heads[slot as usize];
        (head.record(), self.copy_attributes(head, slot, buffer))
    }

    /// Copies the attributes into `buffer` and returns them. `None` as for [`Self::read`].
    pub fn attributes<'a>(&self, slot: u32, buffer: &'a mut [u8; ATTRIBUTES_BYTES_MAX]) -> Option<&'a [u8]> {
        let head = self.heads.get(slot as usize)?;
        let length = head.sequence.read(|| self.copy_attributes(head, slot, buffer))?;
        Some(&buffer[..length])
    }

    fn copy_attributes(&self, head: &RecordHead, slot: u32, buffer: &mut [u8; ATTRIBUTES_BYTES_MAX]) -> usize {
        let tail = self.tail(slot);
        let length = (head.attributes_len.load(Relaxed) as usize).min(tail.len() * 8);
        for (bytes, word) in buffer[..length].chunks_mut(8).zip(tail) {
            bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes()[..bytes.len()]);
        }
        length
    }

    /// Ends a write that its writer did not live to end.
    pub fn mend(&self, writer: &Writer, slot: u32) {
        self.heads[slot as usize].sequence.mend(writer);
    }

    /// Replaces a record and its attributes, which fit by [`super::Geometry::attributes_bytes`].
    pub fn write(&self, writer: &Writer, slot: u32, record: &Record, attributes: &[u8]) {
        let head = &self.heads[slot as usize];
        head.sequence.write(writer, || {
            head.replaced_nonce.store(record.replaced_nonce, Relaxed);
            store_bytes(&head.source, &record.source);
            store_bytes(&head.zone, zerocopy::IntoBytes::as_bytes(&record.zone));
            store_bytes(&head.instance, zerocopy::IntoBytes::as_bytes(&record.instance));
            self.set_attributes(writer, slot, attributes);
        });
    }

    /// Runs a change of a member with those shut out who read its record.
    pub fn locked<R>(&self, writer: &Writer, slot: u32, change: impl FnOnce() -> R) -> R {
        self.heads[slot as usize].sequence.write(writer, change)
    }

    /// Replaces the attributes only. To be called inside [`Self::locked`].
    pub fn set_attributes(&self, _: &Writer, slot: u32, attributes: &[u8]) {
        let tail = self.tail(slot);
        assert!(attributes.len() <= tail.len() * 8, "attributes longer than their tail");
        self.heads[slot as usize].attributes_len.store(attributes.len() as u32, Relaxed);
        store_bytes(tail, attributes);
    }
}

#[inline]
pub(super) fn load_bytes<const WORDS: usize, const BYTES: usize>(words: &[AtomicU64; WORDS]) -> [u8; BYTES] {
    const { assert!(BYTES == WORDS * 8) };
    let mut bytes = [0; BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
    }
    bytes
}

/// Stores bytes into words in memory order; the last word is filled up with zeros.
pub(super) fn store_bytes(words: &[AtomicU64], bytes: &[u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks(8)) {
        let mut whole = [0; 8];
        whole[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_ne_bytes(whole), Relaxed);
    }
}

/// A name from eight words.
pub(super) fn load_name(words: &[AtomicU64; 8]) -> Name {
    Name::from_array(load_bytes(words))
}
