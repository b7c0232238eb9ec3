//! The rarely written facts of an instance.

use super::part::{Part, Shared};
use super::right::Right;
use super::seqlock::Sequence;
use super::service_number::ServiceNumber;
use crate::limits::ATTRIBUTES_BYTES_MAX;
use crate::sync::{AtomicU32, AtomicU64};
use crate::wire::{Label, Name, Slot};
use std::sync::atomic::Ordering::Relaxed;

/// The fixed part of a record as it lies in memory. What an instance is looked up by comes first: a
/// lookup reads one cache line, names of up to 55 bytes included.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct RecordHead {
    sequence: Sequence,
    service: AtomicU32,
    instance: [AtomicU64; 8],
    /// The nonce of the lease that this one replaced; 0 for none. It opens nothing any more.
    replaced_nonce: AtomicU64,
    /// The IP address that registered the instance.
    source: [AtomicU64; 2],
    zone: [AtomicU64; 4],
}

// SAFETY: atomics only.
unsafe impl Shared for RecordHead {}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<RecordHead>() == 128);
    assert!(offset_of!(RecordHead, service) == 4);
    assert!(offset_of!(RecordHead, instance) == 8);
    assert!(offset_of!(RecordHead, replaced_nonce) == 72);
    assert!(offset_of!(RecordHead, source) == 80);
    assert!(offset_of!(RecordHead, zone) == 96);
};

impl RecordHead {
    #[inline]
    fn service(&self) -> ServiceNumber {
        ServiceNumber::new(self.service.load(Relaxed))
    }

    #[inline]
    fn record(&self) -> Record {
        Record {
            service: self.service(),
            replaced_nonce: self.replaced_nonce.load(Relaxed),
            source: load_bytes(&self.source),
            zone: Label::from_array(load_bytes(&self.zone)),
            instance: load_name(&self.instance),
        }
    }
}

/// Whether these words are the name, both as [`Text`](crate::wire::Text) has them: what is not zero
/// in the last word belongs to a name that says so in its first.
#[inline]
pub(super) fn is_named(words: &[AtomicU64; 8], name: &[u64; 8]) -> bool {
    let differs = |at: usize| words[at].load(Relaxed) ^ name[at];
    (0..7).fold(0, |bits, at| bits | differs(at)) == 0 && (name[7] == 0 || differs(7) == 0)
}

/// A copy of a record, without its attributes.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Directory number of its service.
    pub service: ServiceNumber,
    /// The nonce of the lease that this one replaced; 0 for none.
    pub replaced_nonce: u64,
    /// The IP address that registered the instance.
    pub source: [u8; 16],
    /// Where the instance runs; may be empty.
    pub zone: Label,
    /// Name of the instance in its service.
    pub instance: Name,
}

/// The records of all slots. Each has a tail: its first word is the length of the attributes, these
/// follow.
#[derive(Debug)]
pub struct Records {
    heads: Part<RecordHead>,
    tails: Part<AtomicU64>,
    tail_words: usize,
}

impl Records {
    #[inline]
    pub(super) fn new(heads: Part<RecordHead>, tails: Part<AtomicU64>, tail_words: usize) -> Self {
        Self { heads, tails, tail_words }
    }

    fn tail(&self, slot: Slot) -> &[AtomicU64] {
        let start = slot.index() * self.tail_words;
        self.tails.get(start..start + self.tail_words).unwrap_or(&[])
    }

    /// Copies a record. `None` when the slot is out of range or the writer kept disturbing.
    #[inline]
    pub fn read(&self, slot: Slot) -> Option<Record> {
        let head = self.heads.get(slot.index())?;
        head.sequence.read(|| head.record())
    }

    /// Directory number of the service that a slot was last taken for.
    #[inline]
    pub fn service(&self, slot: Slot) -> ServiceNumber {
        self.heads[slot.index()].service()
    }

    /// Whether a record is of this name and of a service that `is_service` recognises. `None` as
    /// for [`Self::read`].
    #[inline]
    pub fn is_of(
        &self,
        slot: Slot,
        name: &Name,
        is_service: impl Fn(ServiceNumber) -> bool,
    ) -> Option<bool> {
        let (head, name) = (self.heads.get(slot.index())?, zerocopy::transmute!(*name));
        head.sequence.read(|| is_named(&head.instance, &name) && is_service(head.service()))
    }

    /// Runs `read`, which may look at everything about a member, until the writer did not disturb
    /// it. `None` as for [`Self::read`].
    #[inline]
    pub fn read_locked<R>(&self, slot: Slot, read: impl FnMut() -> R) -> Option<R> {
        self.heads.get(slot.index())?.sequence.read(read)
    }

    /// Copies a record and its attributes. To be called inside [`Self::read_locked`].
    #[inline]
    pub fn copy(&self, slot: Slot, buffer: &mut [u8; ATTRIBUTES_BYTES_MAX]) -> (Record, usize) {
        let head = &self.heads[slot.index()];
        (head.record(), self.copy_attributes(slot, buffer))
    }

    /// Copies the attributes into `buffer` and returns them. `None` as for [`Self::read`].
    #[inline]
    pub fn attributes<'a>(
        &self,
        slot: Slot,
        buffer: &'a mut [u8; ATTRIBUTES_BYTES_MAX],
    ) -> Option<&'a [u8]> {
        let head = self.heads.get(slot.index())?;
        let length = head.sequence.read(|| self.copy_attributes(slot, buffer))?;
        Some(&buffer[..length])
    }

    fn copy_attributes(&self, slot: Slot, buffer: &mut [u8; ATTRIBUTES_BYTES_MAX]) -> usize {
        let Some((length, tail)) = self.tail(slot).split_first() else { return 0 };
        let length = (length.load(Relaxed) as usize).min(tail.len() * 8);
        for (bytes, word) in buffer[..length].chunks_mut(8).zip(tail) {
            bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes()[..bytes.len()]);
        }
        length
    }

    /// Ends a write that its writer did not live to end.
    pub fn mend(&self, right: &Right, slot: Slot) {
        self.heads[slot.index()].sequence.mend(right);
    }

    /// Replaces a record and its attributes, which fit by [`super::Geometry::attributes_bytes`].
    pub fn write(&self, right: &Right, slot: Slot, record: &Record, attributes: &[u8]) {
        let head = &self.heads[slot.index()];
        head.sequence.write(right, || {
            head.service.store(record.service.get(), Relaxed);
            head.replaced_nonce.store(record.replaced_nonce, Relaxed);
            store_bytes(&head.source, &record.source);
            store_bytes(&head.zone, zerocopy::IntoBytes::as_bytes(&record.zone));
            store_bytes(&head.instance, zerocopy::IntoBytes::as_bytes(&record.instance));
            self.set_attributes(right, slot, attributes);
        });
    }

    /// Runs a change of a member with those shut out who read its record.
    pub fn locked<R>(&self, right: &Right, slot: Slot, change: impl FnOnce() -> R) -> R {
        self.heads[slot.index()].sequence.write(right, change)
    }

    /// Replaces the attributes only. To be called inside [`Self::locked`].
    pub fn set_attributes(&self, _: &Right, slot: Slot, attributes: &[u8]) {
        let (length, tail) = self.tail(slot).split_first().expect("a tail begins with its length");
        assert!(attributes.len() <= tail.len() * 8, "attributes longer than their tail");
        length.store(attributes.len() as u64, Relaxed);
        store_bytes(tail, attributes);
    }
}

#[inline]
pub(super) fn load_bytes<const WORDS: usize, const BYTES: usize>(
    words: &[AtomicU64; WORDS],
) -> [u8; BYTES] {
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

#[cfg(test)]
mod tests {
    use super::super::{Geometry, Place, Region, Run};
    use super::*;
    use crate::sync::AtomicBool;

    const SLOT: Slot = Slot::new(0);

    #[test]
    fn a_record_is_of_one_name_and_one_service() {
        let (region, right) = Region::create(
            &Place::Scratch,
            Geometry::new(16, 8),
            Run::default(),
            &AtomicBool::new(false),
        )
        .unwrap();
        let named =
            |length: usize, last: &str| Name::new(&("x".repeat(length - 1) + last)).unwrap();
        for length in [1, 7, 8, 55, 56, 63] {
            let record = Record {
                service: ServiceNumber::new(5),
                replaced_nonce: 0,
                source: [0; 16],
                zone: Label::EMPTY,
                instance: named(length, "a"),
            };
            region.records().write(&right, SLOT, &record, b"\x03tag");
            let is = |name: &Name, service: u32| {
                region.records().is_of(SLOT, name, |own| own == ServiceNumber::new(service))
            };
            assert_eq!(is(&named(length, "a"), 5), Some(true), "{length}");
            assert_eq!(is(&named(length, "b"), 5), Some(false), "{length}");
            assert_eq!(is(&named(length, "a"), 4), Some(false), "{length}");
            let other = if length == 63 { named(length - 1, "x") } else { named(length + 1, "a") };
            assert_eq!(is(&other, 5), Some(false), "{length}");
        }
    }
}
