//! Reads the newest generation that is whole.

use super::disk::Disk;
use super::entry::{BeatEntry, EngineTime, MemberHead, Restored};
use super::layout::{BEATS, HalfHeader, PAGE, Sizes, SnapshotError};
use crate::clock::Nanos;
use crate::region::{ListRef, Region, RestoredLine, ServiceMeta, Writer};
use crate::wire::{Name, service_id};
use ahash::AHashMap;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Versions and event numbers go on this far above the stored ones: more than can have been given out after the generation was written.
const JUMP: u64 = 1 << 32;
/// Bytes read at once.
const READ_BYTES: usize = 256 * PAGE;

/// A generation that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its number.
    pub number: u64,
    /// The half that holds it.
    pub half: usize,
    /// Engine time when it was written.
    pub time: u64,
    /// Leases in it.
    pub leases: u32,
}

/// A file whose header is sound.
#[derive(Debug)]
pub struct Reader<'a, D> {
    disk: &'a D,
    sizes: Sizes,
    /// The halves whose headers are sound, newest first.
    halves: Vec<(usize, HalfHeader)>,
    /// Whether something was ever written.
    written: bool,
}

impl<'a, D: Disk> Reader<'a, D> {
    /// Reads the headers.
    pub fn open(disk: &'a D) -> Result<Self, SnapshotError> {
        let sizes = Sizes::read(disk)?;
        let (mut halves, mut written) = (Vec::new(), false);
        for half in 0..2 {
            let mut header = HalfHeader::new_zeroed();
            disk.read_at(header.as_mut_bytes(), sizes.header_at(half))?;
            written |= header.as_bytes().iter().any(|&byte| byte != 0);
            if header.checksum.get() == sizes.half_checksum(&header) && header.slots_used.get() <= sizes.slots {
                halves.push((half, header));
            }
        }
        halves.sort_by_key(|(_, header)| std::cmp::Reverse(header.number.get()));
        Ok(Self { disk, sizes, halves, written })
    }

    /// What the file has room for.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Whether something was written and neither half can be read.
    pub fn is_worthless(&self) -> bool {
        self.written && self.halves.is_empty()
    }

    /// The newest generation by its header alone, for whoever has newer memory and only goes on with the file.
    pub fn newest(&self) -> Option<Loaded> {
        let (half, header) = self.halves.first()?;
        Some(Loaded { number: header.number.get(), half: *half, time: header.time.get(), leases: 0 })
    }

    /// Puts the newest whole generation into an empty region; `None`: none was ever written. After an error the region is empty again.
    pub fn load(&self, region: &Region, writer: &Writer, now: Nanos) -> Result<Option<Loaded>, SnapshotError> {
        let mut damage = "the headers of both halves";
        for (half, header) in &self.halves {
            match self.load_half(*half, header, region, writer, now) {
                Ok(loaded) => return Ok(Some(loaded)),
                Err(error) => {
                    wipe(region, writer);
                    match error {
                        SnapshotError::Damaged(what) => damage = what,
                        other => return Err(other),
                    }
                }
            }
        }
        if self.written { Err(SnapshotError::Damaged(damage)) } else { Ok(None) }
    }

    fn load_half(&self, half: usize, header: &HalfHeader, region: &Region, writer: &Writer, now: Nanos) -> Result<Loaded, SnapshotError> {
        let used = header.slots_used.get();
        let mut table = vec![U32::ZERO; self.sizes.blocks() as usize];
        self.disk.read_at(table.as_mut_bytes(), self.sizes.table_at(half))?;
        if self.sizes.table_checksum(&table, used) != header.table_checksum.get() {
            return Err(SnapshotError::Damaged("the checksums of its blocks"));
        }
        let mut beats = vec![BeatEntry::new_zeroed(); (self.sizes.beat_blocks(used) * BEATS) as usize];
        self.blocks(half, &table, 0..self.sizes.beat_blocks(used), |block, page| {
            let entries = beats[(block * BEATS) as usize..][..BEATS as usize].as_mut_bytes();
            entries.copy_from_slice(&page[..entries.len()]);
            Ok(())
        })?;
        let (time, written) = (EngineTime::going_on(now, header.time.get()), header.time.get());
        let version = header.feed_head.get() + JUMP;
        let mut services = Services { by_name: AHashMap::new(), version };
        let mut leases = 0;
        let first = self.sizes.beat_blocks(self.sizes.slots);
        self.blocks(half, &table, first..first + self.sizes.member_blocks(used), |block, page| {
            for (slot, entry) in self.sizes.slots_of(block).zip(page.chunks(self.sizes.member_bytes())) {
                let (head, attributes) = MemberHead::ref_from_prefix(entry).map_err(|_| SnapshotError::Damaged("a block"))?;
                if slot >= region.geometry().slots && head.leased().is_some() {
                    return Err(SnapshotError::TooLarge { slot, attributes: head.attributes_len() });
                }
                let Some(state) = head.leased() else {
                    if slot < region.geometry().slots {
                        head.restore_generation(region, writer, slot);
                    }
                    continue;
                };
                let attributes = attributes.get(..head.attributes_len()).ok_or(SnapshotError::Damaged("a member"))?;
                if attributes.len() > region.geometry().attributes_bytes {
                    return Err(SnapshotError::TooLarge { slot, attributes: attributes.len() });
                }
                let service = services.find(region, writer, &head.service)?;
                let beat = beats.get(slot as usize).ok_or(SnapshotError::Damaged("a member"))?;
                head.restore(region, writer, Restored { slot, service, state, beat, attributes, time, written });
                leases += 1;
            }
            Ok(())
        })?;
        region.feed().start_after(writer, version);
        Ok(Loaded { number: header.number.get(), half, time: written, leases })
    }

    /// Hands each block of a range on, after its checksum has been compared.
    fn blocks(
        &self,
        half: usize,
        table: &[U32],
        range: std::ops::Range<u32>,
        mut take: impl FnMut(u32, &[u8]) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let mut buffer = vec![0; READ_BYTES];
        for start in range.clone().step_by(READ_BYTES / PAGE) {
            let count = (range.end - start).min((READ_BYTES / PAGE) as u32);
            let bytes = &mut buffer[..count as usize * PAGE];
            self.disk.read_at(bytes, self.sizes.block_at(half, start))?;
            for (block, page) in (start..).zip(bytes.chunks_exact(PAGE)) {
                if crc32fast::hash(page) != table[block as usize].get() {
                    return Err(SnapshotError::Damaged("a block"));
                }
                take(block, page)?;
            }
        }
        Ok(())
    }
}

/// The services as they are found again.
struct Services {
    by_name: AHashMap<Name, u32>,
    version: u64,
}

impl Services {
    fn find(&mut self, region: &Region, writer: &Writer, name: &Name) -> Result<u32, SnapshotError> {
        if let Some(&service) = self.by_name.get(name) {
            return Ok(service);
        }
        let service = self.by_name.len() as u32;
        let entry = region.directory().get(service as usize).ok_or(SnapshotError::Damaged("more services than there can be"))?;
        let id = service_id(name.as_str());
        entry.sequence().write(writer, || {
            entry.set_meta(writer, ServiceMeta { id, version: self.version, listed: 0, total: 0, list: ListRef::default() });
            entry.set_name(writer, Some(name));
        });
        self.by_name.insert(*name, service);
        Ok(service)
    }
}

/// Empties a region that a generation was put into.
fn wipe(region: &Region, writer: &Writer) {
    region.lines().iter().filter(|line| line.head().0 != 0).for_each(|line| line.restore(writer, &RestoredLine::FREE));
    for entry in region.directory().iter().filter(|entry| entry.is_used()) {
        entry.sequence().write(writer, || entry.set_name(writer, None));
    }
}
