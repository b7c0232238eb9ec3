//! How large each table is and where it starts.

use super::counters::{BLOCKS, Block};
use super::directory::DirectoryEntry;
use super::endpoint::EndpointLine;
use super::feed::EventLine;
use super::heart::HeartLine;
use super::part::Shared;
use super::record::RecordHead;
use super::redo::RedoLine;
use super::run::Run;
use super::seqlock::Sequence;
use crate::limits::{ATTRIBUTES_BYTES_MAX, CAPACITY_MAX, CAPACITY_MIN, SPARE_SLOTS};
use crate::sync::{AtomicU32, AtomicU64};
use crate::wire::fnv1a;
use std::sync::atomic::Ordering::Relaxed;

/// `HLREGION` as a little-endian number.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"HLREGION");
/// Version of the region format.
pub(super) const FORMAT: u32 = 5;
/// Sections start on page boundaries.
const PAGE: usize = 4096;

/// What both headers begin with.
#[derive(Debug)]
#[repr(C)]
pub(super) struct CommonHeader {
    pub(super) magic: AtomicU64,
    pub(super) format: AtomicU32,
    /// 1 once everything else is in place.
    pub(super) ready: AtomicU32,
    /// Hash of every size and offset: a reader built for another layout must not go on.
    pub(super) layout: AtomicU64,
    pub(super) capacity: AtomicU32,
    pub(super) slots: AtomicU32,
    pub(super) services_max: AtomicU32,
    pub(super) attributes_bytes: AtomicU32,
    pub(super) boot: [AtomicU64; 2],
    /// Of the run that made the files; runs that go on with them have others.
    pub(super) epoch: AtomicU64,
}

impl CommonHeader {
    /// Writes everything but `ready`.
    pub(super) fn fill(&self, geometry: &Geometry, run: &Run) {
        let boot = u128::from_be_bytes(run.boot);
        self.magic.store(MAGIC, Relaxed);
        self.format.store(FORMAT, Relaxed);
        self.layout.store(geometry.hash(), Relaxed);
        self.capacity.store(geometry.capacity, Relaxed);
        self.slots.store(geometry.slots, Relaxed);
        self.services_max.store(geometry.services_max, Relaxed);
        self.attributes_bytes.store(geometry.attributes_bytes as u32, Relaxed);
        self.boot[0].store((boot >> 64) as u64, Relaxed);
        self.boot[1].store(boot as u64, Relaxed);
        self.epoch.store(run.epoch, Relaxed);
    }
}

/// The first page of the heart file.
#[derive(Debug)]
#[repr(C)]
pub(super) struct HeartHeader {
    pub(super) common: CommonHeader,
    pub(super) redo: RedoLine,
}

/// The first page of the public file.
#[derive(Debug)]
#[repr(C)]
pub(super) struct PublicHeader {
    pub(super) common: CommonHeader,
    /// 1 once the engine has left the file for another in its place.
    pub(super) left: AtomicU32,
    /// Around the time in which the tables are made anew.
    pub(super) rebuilt: Sequence,
    reserved_72: [AtomicU64; 6],
    /// Key of the index hashes.
    pub(super) key: [AtomicU64; 2],
    pub(super) directory_revision: AtomicU64,
    pub(super) services: AtomicU32,
    reserved_148: AtomicU32,
    /// When the hold that is on began; 0 with no hold.
    pub(super) hold_since: AtomicU64,
    /// Live instances then in the high half, silent ones in the low half.
    pub(super) hold_shares: AtomicU64,
    /// Of the four words above.
    pub(super) sequence: Sequence,
    reserved_172: AtomicU32,
    reserved_176: [AtomicU64; 2],
    pub(super) feed_head: AtomicU64,
    reserved_200: [AtomicU64; 7],
    index_moves: AtomicU32,
    directory_moves: AtomicU32,
}

impl PublicHeader {
    pub(super) const FEED_HEAD: usize = 192;
    pub(super) const INDEX_MOVES: usize = 256;
    pub(super) const DIRECTORY_MOVES: usize = 260;
}

// SAFETY: atomics only.
unsafe impl Shared for HeartHeader {}
// SAFETY: atomics only.
unsafe impl Shared for PublicHeader {}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<CommonHeader>() == 64);
    assert!(offset_of!(CommonHeader, format) == 8);
    assert!(offset_of!(CommonHeader, ready) == 12);
    assert!(offset_of!(CommonHeader, layout) == 16);
    assert!(offset_of!(CommonHeader, capacity) == 24);
    assert!(offset_of!(CommonHeader, slots) == 28);
    assert!(offset_of!(CommonHeader, services_max) == 32);
    assert!(offset_of!(CommonHeader, attributes_bytes) == 36);
    assert!(offset_of!(CommonHeader, boot) == 40);
    assert!(offset_of!(CommonHeader, epoch) == 56);
    assert!(size_of::<HeartHeader>() == 704 && size_of::<HeartHeader>() <= PAGE);
    assert!(offset_of!(HeartHeader, redo) == 64);
    assert!(size_of::<PublicHeader>() <= PAGE);
    assert!(offset_of!(PublicHeader, left) == 64);
    assert!(offset_of!(PublicHeader, rebuilt) == 68);
    assert!(offset_of!(PublicHeader, key) == 120);
    assert!(offset_of!(PublicHeader, directory_revision) == 136);
    assert!(offset_of!(PublicHeader, services) == 144);
    assert!(offset_of!(PublicHeader, hold_since) == 152);
    assert!(offset_of!(PublicHeader, hold_shares) == 160);
    assert!(offset_of!(PublicHeader, sequence) == 168);
    assert!(offset_of!(PublicHeader, feed_head) == PublicHeader::FEED_HEAD);
    assert!(offset_of!(PublicHeader, index_moves) == PublicHeader::INDEX_MOVES);
    assert!(offset_of!(PublicHeader, directory_moves) == PublicHeader::DIRECTORY_MOVES);
};

/// Sizes of the tables and their byte offsets in their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Leases there can be.
    pub capacity: u32,
    /// Slots: the capacity and some spare ones.
    pub slots: u32,
    /// Services there can be.
    pub services_max: u32,
    /// Attribute bytes of each instance.
    pub attributes_bytes: usize,
    pub(super) lines: usize,
    heart_bytes: usize,
    pub(super) counters: usize,
    pub(super) directory: usize,
    pub(super) directory_index: usize,
    pub(super) directory_buckets: usize,
    pub(super) endpoints: usize,
    pub(super) records: usize,
    pub(super) tails: usize,
    pub(super) index: usize,
    pub(super) buckets: usize,
    pub(super) lists: usize,
    /// Entries of the slot list arena; a power of two.
    pub list_entries: usize,
    pub(super) feed: usize,
    /// Events that the feed keeps; a power of two.
    pub events: usize,
    public_bytes: usize,
}

impl Geometry {
    /// The geometry for a capacity and an attribute size.
    ///
    /// # Panics
    /// When either is outside its limits: `Config` has refused such values before.
    pub fn new(capacity: u32, attributes_bytes: usize) -> Self {
        assert!((CAPACITY_MIN..=CAPACITY_MAX).contains(&capacity));
        assert!(attributes_bytes <= ATTRIBUTES_BYTES_MAX);
        let slots = capacity + SPARE_SLOTS;
        let services_max = (capacity / 8).max(capacity.min(1024));
        // At most half full, spare slots included, keeps probes short (Knuth, TAOCP 3, section
        // 6.4).
        let buckets = (2 * capacity as usize).next_power_of_two();
        let directory_buckets = (2 * services_max as usize).next_power_of_two();
        // A list of n slots owns at most 4n entries (see `lists.rs`), and its old and new place
        // while it grows. Where there may be about as many services as leases, that takes all of 4
        // entries a lease, and nothing is left to grow into.
        let entries_a_lease = if services_max > capacity / 8 { 8 } else { 4 };
        let list_entries = entries_a_lease * (capacity as usize).next_power_of_two();
        let events = (capacity as usize).next_power_of_two().clamp(4096, 65_536);

        let tail_words = tail_words(attributes_bytes);
        let mut heart = Sections(PAGE);
        let lines = heart.take::<HeartLine>(slots as usize);
        let mut public = Sections(PAGE);
        Self {
            capacity,
            slots,
            services_max,
            attributes_bytes,
            lines,
            heart_bytes: heart.0,
            counters: public.take::<Block>(BLOCKS),
            directory: public.take::<DirectoryEntry>(services_max as usize),
            directory_index: public.take::<AtomicU64>(directory_buckets),
            directory_buckets,
            endpoints: public.take::<EndpointLine>(slots as usize),
            records: public.take::<RecordHead>(slots as usize),
            tails: public.take::<AtomicU64>(slots as usize * tail_words),
            index: public.take::<AtomicU64>(buckets),
            buckets,
            lists: public.take::<AtomicU32>(list_entries),
            list_entries,
            feed: public.take::<EventLine>(events),
            events,
            public_bytes: public.0,
        }
    }

    /// Words of one attribute tail.
    pub(super) fn tail_words(&self) -> usize {
        tail_words(self.attributes_bytes)
    }

    /// Size of the heart file.
    pub fn heart_bytes(&self) -> usize {
        self.heart_bytes
    }

    /// Size of the public file.
    pub fn public_bytes(&self) -> usize {
        self.public_bytes
    }

    /// FNV-1a over every number above and the size of every element.
    pub(super) fn hash(&self) -> u64 {
        let numbers = [
            self.slots as usize,
            self.services_max as usize,
            self.attributes_bytes,
            self.lines,
            self.heart_bytes,
            self.counters,
            self.directory,
            self.directory_index,
            self.directory_buckets,
            self.endpoints,
            self.records,
            self.tails,
            self.index,
            self.buckets,
            self.lists,
            self.list_entries,
            self.feed,
            self.events,
            self.public_bytes,
            size_of::<HeartLine>(),
            size_of::<Block>(),
            size_of::<DirectoryEntry>(),
            size_of::<EndpointLine>(),
            size_of::<RecordHead>(),
            size_of::<EventLine>(),
        ];
        let bytes: Vec<u8> =
            numbers.iter().flat_map(|&number| (number as u64).to_le_bytes()).collect();
        fnv1a(&bytes)
    }
}

/// Words of a tail for so many attribute bytes: their length and they.
fn tail_words(attributes_bytes: usize) -> usize {
    1 + attributes_bytes.div_ceil(8)
}

/// Hands out page-aligned sections of a file.
struct Sections(usize);

impl Sections {
    fn take<T>(&mut self, count: usize) -> usize {
        let start = self.0;
        self.0 = (start + count * size_of::<T>()).next_multiple_of(PAGE);
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_leases_take_less_than_480_bytes_each() {
        let geometry = Geometry::new(1 << 20, 128);
        let bytes = geometry.heart_bytes() + geometry.public_bytes();
        assert!(bytes / (1 << 20) < 480, "{} bytes a lease", bytes / (1 << 20));
    }

    #[test]
    fn sizes_change_the_hash() {
        assert_ne!(Geometry::new(1024, 128).hash(), Geometry::new(1024, 136).hash());
        assert_ne!(Geometry::new(1024, 128).hash(), Geometry::new(2048, 128).hash());
        assert_eq!(Geometry::new(1024, 128).hash(), Geometry::new(1024, 128).hash());
    }
}
