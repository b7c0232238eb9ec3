//! Reads the newest generation that is whole.

use super::disk::Disk;
use super::entry::{BeatEntry, EngineTime, MemberHead, Restored};
use super::layout::{BEATS, HalfHeader, PAGE, Sizes, SnapshotError};
use crate::clock::Nanos;
use crate::region::{ListRef, Region, RestoredLine, ServiceMeta, Writer};
use crate::wire::{Name, service_id};
use ahash::AHashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Versions and event numbers go on this far above the stored ones: more than can have been given out after the generation was written.
const JUMP: u64 = 1 << 32;
/// Bytes read at once: they stay in the cache while they are checked and taken apart.
const READ_BYTES: usize = 64 * PAGE;
/// Threads that load at once; memory is no faster for more.
const THREADS_MAX: usize = 4;

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
    pub(super) header: HalfHeader,
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

impl<'a, D: Disk + Sync> Reader<'a, D> {
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
        Some(Loaded { number: header.number.get(), half: *half, time: header.time.get(), leases: 0, header: *header })
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
        let services = Mutex::new(Services { by_name: AHashMap::new(), version });
        let into = Into { region, writer, services: &services, beats: &beats, time, written };
        let first = self.sizes.beat_blocks(self.sizes.slots);
        let end = first + self.sizes.member_blocks(used);
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX)) as u32;
        let each = (end - first).div_ceil(threads).max(1);
        let parts = (first..end).step_by(each as usize).map(|start| start..(start + each).min(end));
        let leases = std::thread::scope(|scope| {
            let load = |part| scope.spawn(|| self.load_members(half, &table, part, &into));
            let loading: Vec<_> = parts.map(load).collect();
            loading.into_iter().map(|part| part.join().expect("loading does not panic")).sum::<Result<u32, SnapshotError>>()
        })?;
        region.feed().start_after(writer, version);
        Ok(Loaded { number: header.number.get(), half, time: written, leases, header: *header })
    }

    /// Puts the members of some blocks where they belong; returns how many there are.
    fn load_members(&self, half: usize, table: &[U32], blocks: Range<u32>, into: &Into<'_>) -> Result<u32, SnapshotError> {
        let Into { region, writer, services, beats, time, written } = *into;
        let (mut leases, mut known) = (0, AHashMap::new());
        self.blocks(half, table, blocks, |block, page| {
            for (slot, entry) in self.sizes.slots_of(block).zip(page.chunks(self.sizes.member_bytes())) {
                let (head, attributes) = MemberHead::ref_from_prefix(entry).map_err(|_| SnapshotError::Damaged("a block"))?;
                let Some(state) = head.leased() else {
                    if slot < region.geometry().slots {
                        head.restore_generation(region, writer, slot);
                    }
                    continue;
                };
                let attributes = attributes.get(..head.attributes_len()).ok_or(SnapshotError::Damaged("a member"))?;
                if slot >= region.geometry().slots || attributes.len() > region.geometry().attributes_bytes {
                    return Err(SnapshotError::TooLarge { slot, attributes: attributes.len() });
                }
                let service = match known.get(&head.service) {
                    Some(&service) => service,
                    None => {
                        let service = services.lock().unwrap_or_else(PoisonError::into_inner).find(region, writer, &head.service)?;
                        known.insert(head.service, service);
                        service
                    }
                };
                let beat = beats.get(slot as usize).ok_or(SnapshotError::Damaged("a member"))?;
                head.restore(region, writer, Restored { slot, service, state, beat, attributes, time, written });
                leases += 1;
            }
            Ok(())
        })?;
        Ok(leases)
    }

    /// Hands each block of a range on, after its checksum has been compared.
    fn blocks(
        &self,
        half: usize,
        table: &[U32],
        range: Range<u32>,
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

/// What members are put into, by several threads at once: each has slots of its own.
struct Into<'a> {
    region: &'a Region,
    writer: &'a Writer,
    services: &'a Mutex<Services>,
    beats: &'a [BeatEntry],
    time: EngineTime,
    written: u64,
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
