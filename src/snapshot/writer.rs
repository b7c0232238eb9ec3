//! Writes editions, one half after the other; of each only what has changed since that half was
//! last written.

use super::disk::Disk;
use super::entry::{BeatEntry, EngineTime, MemberHead};
use super::layout::{HalfHeader, PAGE, Sizes};
use super::reader::Loaded;
use crate::clock::{Moment, Nanos};
use crate::region::Region;
use crate::wire::{Generation, Slot};
use std::io;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

/// Pages written at once at most.
const RUN_PAGES: usize = 64;
/// Entries of the table in a page.
const TABLE_PAGE: usize = PAGE / 4;

/// An edition that is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its number; editions count up from 1.
    pub edition: u64,
    /// Bytes written for it.
    pub bytes: u64,
}

/// One half, as far as the writer remembers it.
#[derive(Debug)]
struct Half {
    /// A bit for each block that must be written before the half is an edition again.
    pending: Box<[u64]>,
    /// Checksums of its blocks.
    table: Box<[U32]>,
}

impl Half {
    fn new(blocks: u32) -> Self {
        Self {
            pending: vec![u64::MAX; blocks.div_ceil(64) as usize].into_boxed_slice(),
            table: vec![U32::ZERO; blocks as usize].into_boxed_slice(),
        }
    }

    fn mark(&mut self, block: u32) {
        self.pending[block as usize / 64] |= 1 << (block % 64);
    }

    fn is_pending(&self, block: u32) -> bool {
        self.pending[block as usize / 64] & 1 << (block % 64) != 0
    }
}

/// Writes the members of one region to one file.
#[derive(Debug)]
pub struct Writer<D> {
    disk: D,
    sizes: Sizes,
    halves: [Half; 2],
    /// The half to write next.
    target: usize,
    /// The edition that the other half holds; 0: none.
    edition: u64,
    time: EngineTime,
    slots_used: u32,
    /// The header of that edition, if a former writer may have been killed before it was
    /// durable, or its sync may have failed. Its data is: that was synced before the header was
    /// written.
    unconfirmed: Option<HalfHeader>,
    /// Whether anything has changed since that edition.
    changed: bool,
    run: Vec<u8>,
}

impl<D: Disk> Writer<D> {
    /// A writer on a file with a header, for a region of these sizes, going on after the newest
    /// edition of the file.
    pub fn new(disk: D, sizes: Sizes, last: Option<&Loaded>, region: &Region, now: Nanos) -> Self {
        assert_eq!(sizes, Sizes::new(region.geometry()));
        let used = region
            .lines()
            .iter()
            .rposition(|line| line.head().0 != Generation::NONE)
            .map_or(0, |slot| slot as u32 + 1);
        Self {
            disk,
            halves: [Half::new(sizes.blocks()), Half::new(sizes.blocks())],
            sizes,
            target: last.map_or(0, |last| 1 - last.half),
            edition: last.map_or(0, |last| last.edition),
            time: EngineTime::going_on(
                Moment::from_nanos(now),
                last.map_or(EngineTime::START, |last| last.time),
            ),
            slots_used: used,
            unconfirmed: last.map(|last| last.header),
            changed: true,
            run: Vec::with_capacity(RUN_PAGES * PAGE),
        }
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.sizes.file_bytes()
    }

    /// Bytes of memory that the writer takes.
    pub fn memory_bytes(&self) -> usize {
        let half = self.sizes.blocks() as usize * 4 + self.sizes.blocks().div_ceil(64) as usize * 8;
        2 * half + self.run.capacity()
    }

    /// The newest edition on the disk; 0: none.
    pub fn edition(&self) -> u64 {
        self.edition
    }

    /// The file that editions are written to.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// The file, after the last edition.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// Writes the next edition, if members have changed since the last one or `complete`: then
    /// what beats have said is written, too, so that the edition equals memory. After an error
    /// the last edition is as it was, and the next attempt writes its half whole.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn write(
        &mut self,
        region: &Region,
        now: Nanos,
        complete: bool,
    ) -> io::Result<Option<Written>> {
        self.note_changes(region);
        if !self.changed && !complete {
            return Ok(None);
        }
        if complete {
            (0..self.sizes.beat_blocks(self.slots_used))
                .for_each(|block| self.halves[self.target].mark(block));
        }
        match self.confirm().and_then(|()| self.write_half(region, now)) {
            Ok(bytes) => {
                self.edition += 1;
                self.halves[self.target].pending.fill(0);
                // Blocks of slots that were never used were not written.
                for block in 0..self.sizes.blocks() {
                    if self.sizes.slots_of(block).start >= self.slots_used {
                        self.halves[self.target].mark(block);
                    }
                }
                self.target = 1 - self.target;
                self.changed = false;
                Ok(Some(Written { edition: self.edition, bytes }))
            }
            Err(error) => {
                self.halves[self.target].pending.fill(u64::MAX);
                self.changed = true;
                Err(error)
            }
        }
    }

    /// Makes the last edition durable before the other half, which may hold the only one that
    /// is, is touched.
    fn confirm(&mut self) -> io::Result<()> {
        if let Some(header) = self.unconfirmed {
            self.disk.write_at(header.as_bytes(), self.sizes.header_at(1 - self.target))?;
            self.disk.sync()?;
            self.unconfirmed = None;
        }
        Ok(())
    }

    fn note_changes(&mut self, region: &Region) {
        for (first, mut bits) in region.take_changed() {
            self.changed |= bits != 0;
            while bits != 0 {
                let slot = Slot::new(first.get() + bits.trailing_zeros());
                bits &= bits - 1;
                self.slots_used = self.slots_used.max(slot.get() + 1);
                let (beats, member) = (self.sizes.beat_block(slot), self.sizes.member_block(slot));
                for half in &mut self.halves {
                    half.mark(beats);
                    half.mark(member);
                }
            }
        }
    }

    /// Data, sync, header, sync.
    fn write_half(&mut self, region: &Region, now: Nanos) -> io::Result<u64> {
        let mut bytes = self.write_blocks(region)?;
        bytes += self.write_table()?;
        self.disk.sync()?;
        let mut header = HalfHeader {
            edition: U64::new(self.edition + 1),
            slots_used: U32::new(self.slots_used),
            reserved: U32::ZERO,
            feed_head: U64::new(region.feed().head()),
            time: U64::new(self.time.of(Moment::from_nanos(now))),
            table_checksum: U32::new(
                self.sizes.table_checksum(&self.halves[self.target].table, self.slots_used),
            ),
            checksum: U32::ZERO,
        };
        header.checksum = U32::new(self.sizes.half_checksum(&header));
        self.disk.write_at(header.as_bytes(), self.sizes.header_at(self.target))?;
        self.disk.sync()?;
        Ok(bytes + size_of::<HalfHeader>() as u64)
    }

    fn write_blocks(&mut self, region: &Region) -> io::Result<u64> {
        let (mut bytes, mut start) = (0, 0);
        self.run.clear();
        for block in self.sizes.used_blocks(self.slots_used) {
            if !self.halves[self.target].is_pending(block) {
                continue;
            }
            let next = start + (self.run.len() / PAGE) as u32;
            if block != next || self.run.len() == RUN_PAGES * PAGE {
                bytes += self.write_run(start)?;
                start = block;
            }
            let at = self.run.len();
            self.run.resize(at + PAGE, 0);
            compose(&self.sizes, region, self.time, block, &mut self.run[at..])?;
            self.halves[self.target].table[block as usize] =
                U32::new(crc32fast::hash(&self.run[at..]));
        }
        Ok(bytes + self.write_run(start)?)
    }

    /// Writes the composed blocks, of which `start` is the first.
    fn write_run(&mut self, start: u32) -> io::Result<u64> {
        if !self.run.is_empty() {
            self.disk.write_at(&self.run, self.sizes.block_at(self.target, start))?;
        }
        let bytes = self.run.len() as u64;
        self.run.clear();
        Ok(bytes)
    }

    /// Writes the pages of the table that have changed.
    fn write_table(&mut self) -> io::Result<u64> {
        let half = &self.halves[self.target];
        let mut bytes = 0;
        for (page, entries) in half.table.chunks(TABLE_PAGE).enumerate() {
            let first = page * TABLE_PAGE;
            let mut blocks = first as u32..(first + entries.len()) as u32;
            if blocks.any(|block| {
                half.is_pending(block) && self.sizes.slots_of(block).start < self.slots_used
            }) {
                self.disk.write_at(
                    entries.as_bytes(),
                    self.sizes.table_at(self.target) + (first * 4) as u64,
                )?;
                bytes += entries.as_bytes().len() as u64;
            }
        }
        Ok(bytes)
    }
}

/// Fills a block of zeros.
fn compose(
    sizes: &Sizes,
    region: &Region,
    time: EngineTime,
    block: u32,
    page: &mut [u8],
) -> io::Result<()> {
    let slots = sizes.slots_of(block).map(Slot::new);
    if sizes.is_beats(block) {
        for (slot, entry) in slots.zip(page.chunks_mut(size_of::<BeatEntry>())) {
            entry.copy_from_slice(BeatEntry::copy(region, slot, time).as_bytes());
        }
        return Ok(());
    }
    for (slot, entry) in slots.zip(page.chunks_mut(sizes.member_bytes())) {
        MemberHead::copy(region, slot, time, entry).ok_or_else(|| {
            io::Error::other("a member changed a thousand times while it was copied")
        })?;
    }
    Ok(())
}
