//! Where everything in the file is: `docs/SNAPSHOT.md`, as code.

use super::disk::Disk;
use super::entry::{BeatEntry, MemberHead};
use crate::limits::{ATTRIBUTES_BYTES_MAX, CAPACITY_MAX, CAPACITY_MIN, SPARE_SLOTS};
use crate::region::Geometry;
use crate::wire::Slot;
use std::io;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A page: blocks are as long, and everything starts on a multiple of it.
pub(super) const PAGE: usize = 4096;
const MAGIC: [u8; 8] = *b"HLSNAPSH";
const FORMAT: u32 = 1;
/// Beat entries in a block.
const BEATS: u32 = (PAGE / size_of::<BeatEntry>()) as u32;

/// Why a file is not read. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It can't be made, read or written.
    #[error("can't be used: {0}; choose another `snapshot` file, or turn `snapshot` off")]
    Io(#[from] io::Error),
    /// It is no snapshot.
    #[error("is no snapshot of heartline; move it away or choose another `snapshot` file")]
    Foreign,
    /// There is nothing in it.
    #[error(
        "is empty, so it is no snapshot of heartline; move it away or choose another `snapshot` \
         file"
    )]
    Empty,
    /// Another version of the format.
    #[error(
        "has format {0}, this program knows format {FORMAT}; start the program that wrote it, or \
         move it away and start without it"
    )]
    Format(u32),
    /// It is shorter than its header says.
    #[error(
        "has {found} bytes and should have {expected}; it was cut short: without memory to go on \
         with, move it away to start empty"
    )]
    Short {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// Checksums don't match.
    #[error("is damaged ({0}); without memory to go on with, move it away to start empty")]
    Damaged(&'static str),
    /// The engine has less room than the file needs.
    #[error(
        "has a lease in slot {slot} and {attributes} attribute bytes; run with `capacity` and \
         `attributes` that are no smaller than before"
    )]
    TooLarge {
        /// A leased slot that has no room.
        slot: Slot,
        /// Bytes of its attributes.
        attributes: usize,
    },
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FileHeader {
    magic: [u8; 8],
    format: U32,
    slots: U32,
    attributes: U32,
    checksum: U32,
}

/// The header of a half.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(super) struct HalfHeader {
    pub(super) edition: U64,
    pub(super) slots_used: U32,
    pub(super) reserved: U32,
    pub(super) feed_head: U64,
    pub(super) time: U64,
    pub(super) table_checksum: U32,
    pub(super) checksum: U32,
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<FileHeader>() == 24);
    assert!(offset_of!(FileHeader, format) == 8);
    assert!(offset_of!(FileHeader, slots) == 12);
    assert!(offset_of!(FileHeader, attributes) == 16);
    assert!(offset_of!(FileHeader, checksum) == 20);
    assert!(size_of::<HalfHeader>() == 40);
    assert!(offset_of!(HalfHeader, slots_used) == 8);
    assert!(offset_of!(HalfHeader, feed_head) == 16);
    assert!(offset_of!(HalfHeader, time) == 24);
    assert!(offset_of!(HalfHeader, table_checksum) == 32);
    assert!(offset_of!(HalfHeader, checksum) == 36);
    assert!(BEATS == 170);
};

/// How large a file is and where its parts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Slots of the engine.
    pub slots: u32,
    /// Attribute bytes of each instance.
    pub attributes: usize,
}

impl Sizes {
    /// For an engine with this geometry.
    pub fn new(geometry: &Geometry) -> Self {
        Self { slots: geometry.slots, attributes: geometry.attributes_bytes }
    }

    /// Bytes of a member entry.
    pub(super) fn member_bytes(&self) -> usize {
        size_of::<MemberHead>() + self.attributes.next_multiple_of(8)
    }

    /// Member entries in a block.
    pub(super) fn members_a_block(&self) -> u32 {
        (PAGE / self.member_bytes()) as u32
    }

    /// Beat blocks for so many slots.
    pub(super) fn beat_blocks(&self, slots: u32) -> u32 {
        slots.div_ceil(BEATS)
    }

    /// Member blocks for so many slots.
    pub(super) fn member_blocks(&self, slots: u32) -> u32 {
        slots.div_ceil(self.members_a_block())
    }

    /// Blocks of a half, beat blocks first.
    pub(super) fn blocks(&self) -> u32 {
        self.beat_blocks(self.slots) + self.member_blocks(self.slots)
    }

    /// The block in which a slot's beat entry is.
    pub(super) fn beat_block(&self, slot: Slot) -> u32 {
        slot.get() / BEATS
    }

    /// The block in which a slot's member entry is.
    pub(super) fn member_block(&self, slot: Slot) -> u32 {
        self.beat_blocks(self.slots) + slot.get() / self.members_a_block()
    }

    /// The slots whose entries are in a block.
    pub(super) fn slots_of(&self, block: u32) -> std::ops::Range<u32> {
        let beat_blocks = self.beat_blocks(self.slots);
        let (first, each) = if block < beat_blocks {
            (block * BEATS, BEATS)
        } else {
            ((block - beat_blocks) * self.members_a_block(), self.members_a_block())
        };
        first..(first + each).min(self.slots)
    }

    /// The beat entry of a slot, in beat blocks from `first` on.
    pub(super) fn beat_in<'a>(
        &self,
        blocks: &'a [u8],
        first: u32,
        slot: Slot,
    ) -> Option<&'a BeatEntry> {
        let block = self.beat_block(slot).checked_sub(first)?;
        let at = block as usize * PAGE + (slot.get() % BEATS) as usize * size_of::<BeatEntry>();
        Some(BeatEntry::ref_from_prefix(blocks.get(at..)?).ok()?.0)
    }

    /// Whether a block holds beat entries.
    pub(super) fn is_beats(&self, block: u32) -> bool {
        block < self.beat_blocks(self.slots)
    }

    /// The blocks that are looked at when so many slots are in use.
    pub(super) fn used_blocks(&self, slots_used: u32) -> impl Iterator<Item = u32> + use<> {
        let first_member = self.beat_blocks(self.slots);
        (0..self.beat_blocks(slots_used))
            .chain(first_member..first_member + self.member_blocks(slots_used))
    }

    fn table_bytes(&self) -> u64 {
        (self.blocks() as u64 * 4).next_multiple_of(PAGE as u64)
    }

    fn half_bytes(&self) -> u64 {
        self.table_bytes() + self.blocks() as u64 * PAGE as u64
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        3 * PAGE as u64 + 2 * self.half_bytes()
    }

    /// Where the header of a half is.
    pub(super) fn header_at(&self, half: usize) -> u64 {
        (1 + half as u64) * PAGE as u64
    }

    /// Where the table of a half is.
    pub(super) fn table_at(&self, half: usize) -> u64 {
        3 * PAGE as u64 + half as u64 * self.half_bytes()
    }

    /// Where a block of a half is.
    pub(super) fn block_at(&self, half: usize, block: u32) -> u64 {
        self.table_at(half) + self.table_bytes() + u64::from(block) * PAGE as u64
    }

    /// Writes the file header of a new file.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn write_header(&self, disk: &mut impl Disk) -> io::Result<()> {
        let mut page = [0; PAGE];
        page[..size_of::<FileHeader>()].copy_from_slice(self.header().as_bytes());
        disk.write_at(&page, 0)
    }

    fn header(&self) -> FileHeader {
        let mut header = FileHeader {
            magic: MAGIC,
            format: U32::new(FORMAT),
            slots: U32::new(self.slots),
            attributes: U32::new(self.attributes as u32),
            checksum: U32::ZERO,
        };
        header.checksum = U32::new(crc32fast::hash(&header.as_bytes()[..20]));
        header
    }

    /// The checksum of the table's entries for used blocks.
    pub(super) fn table_checksum(&self, table: &[U32], slots_used: u32) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        let first_member = self.beat_blocks(self.slots) as usize;
        hasher.update(table[..self.beat_blocks(slots_used) as usize].as_bytes());
        hasher.update(
            table[first_member..first_member + self.member_blocks(slots_used) as usize].as_bytes(),
        );
        hasher.finalize()
    }

    /// Reads and checks the file header.
    pub(super) fn read(disk: &impl Disk) -> Result<Self, SnapshotError> {
        let mut header = FileHeader::new_zeroed();
        let found = disk.length()?;
        if found == 0 {
            return Err(SnapshotError::Empty);
        }
        if found < size_of::<FileHeader>() as u64 {
            return Err(SnapshotError::Foreign);
        }
        disk.read_at(header.as_mut_bytes(), 0)?;
        if header.magic != MAGIC {
            return Err(SnapshotError::Foreign);
        }
        if header.format.get() != FORMAT {
            return Err(SnapshotError::Format(header.format.get()));
        }
        let sizes =
            Self { slots: header.slots.get(), attributes: header.attributes.get() as usize };
        let possible =
            (CAPACITY_MIN + SPARE_SLOTS..=CAPACITY_MAX + SPARE_SLOTS).contains(&sizes.slots);
        if header.checksum.get() != crc32fast::hash(&header.as_bytes()[..20])
            || !possible
            || sizes.attributes > ATTRIBUTES_BYTES_MAX
        {
            return Err(SnapshotError::Damaged("its file header"));
        }
        if found < sizes.file_bytes() {
            return Err(SnapshotError::Short { found, expected: sizes.file_bytes() });
        }
        Ok(sizes)
    }

    /// The checksum of a half's header: it goes with this file only.
    pub(super) fn half_checksum(&self, header: &HalfHeader) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.header().checksum.as_bytes());
        hasher.update(&header.as_bytes()[..36]);
        hasher.finalize()
    }
}
