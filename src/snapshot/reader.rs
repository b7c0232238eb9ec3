//! Reads the newest edition that is whole.

use super::disk::Disk;
use super::entry::{EngineTime, MemberHead, Restored};
use super::layout::{HalfHeader, PAGE, Sizes, SnapshotError};
use crate::clock::{Moment, Nanos};
use crate::region::{ListRef, Region, RestoredLine, Right, ServiceMeta, ServiceNumber};
use crate::wire::{Generation, Name, Slot, service_id};
use ahash::AHashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Revisions and event numbers go on this far above the stored ones: more than can have been given
/// out after the edition was written.
const JUMP: u64 = 1 << 32;
/// Member blocks read at once: they stay in the cache while they are checked and taken apart.
const PIECE: u32 = 64;
/// Threads that load at once; memory is no faster for more.
const THREADS_MAX: usize = 4;

/// An edition that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its number; editions count up from 1.
    pub edition: u64,
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
    ///
    /// # Errors
    /// [`SnapshotError`]: the file can't be read, or is no snapshot of this format.
    pub fn open(disk: &'a D) -> Result<Self, SnapshotError> {
        let sizes = Sizes::read(disk)?;
        let (mut halves, mut written) = (Vec::new(), false);
        for half in 0..2 {
            let mut header = HalfHeader::new_zeroed();
            disk.read_at(header.as_mut_bytes(), sizes.header_at(half))?;
            written |= header.as_bytes().iter().any(|&byte| byte != 0);
            if header.checksum.get() == sizes.half_checksum(&header)
                && header.slots_used.get() <= sizes.slots
            {
                halves.push((half, header));
            }
        }
        halves.sort_by_key(|(_, header)| std::cmp::Reverse(header.edition.get()));
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

    /// The newest edition by its header alone, for whoever has newer memory and only goes on
    /// with the file.
    pub fn newest(&self) -> Option<Loaded> {
        let (half, header) = self.halves.first()?;
        Some(Loaded {
            edition: header.edition.get(),
            half: *half,
            time: header.time.get(),
            leases: 0,
            header: *header,
        })
    }

    /// Puts the newest whole edition into an empty region; `None`: none was ever written. After
    /// an error the region is empty again.
    ///
    /// # Errors
    /// [`SnapshotError`]: both halves are damaged, or the members do not fit the region.
    pub fn load(
        &self,
        region: &Region,
        right: &Right,
        now: Nanos,
    ) -> Result<Option<Loaded>, SnapshotError> {
        let mut damage = "the headers of both halves";
        for (half, header) in &self.halves {
            match self.load_half(*half, header, region, right, now) {
                Ok(loaded) => return Ok(Some(loaded)),
                Err(error) => {
                    wipe(region, right);
                    match error {
                        SnapshotError::Damaged(what) => damage = what,
                        other => return Err(other),
                    }
                }
            }
        }
        if self.written { Err(SnapshotError::Damaged(damage)) } else { Ok(None) }
    }

    fn load_half(
        &self,
        half: usize,
        header: &HalfHeader,
        region: &Region,
        right: &Right,
        now: Nanos,
    ) -> Result<Loaded, SnapshotError> {
        let used = header.slots_used.get();
        let mut table = vec![U32::ZERO; self.sizes.blocks() as usize];
        self.disk.read_at(table.as_mut_bytes(), self.sizes.table_at(half))?;
        if self.sizes.table_checksum(&table, used) != header.table_checksum.get() {
            return Err(SnapshotError::Damaged("the checksums of its blocks"));
        }
        let (time, written) =
            (EngineTime::going_on(Moment::from_nanos(now), header.time.get()), header.time.get());
        let revision = header.feed_head.get() + JUMP;
        let services = Mutex::new(Services { by_name: AHashMap::new(), revision });
        let into = Into { region, right, services: &services, time, written };
        let first = self.sizes.beat_blocks(self.sizes.slots);
        let end = first + self.sizes.member_blocks(used);
        let from = Source {
            half,
            table: &table,
            beats_end: self.sizes.beat_blocks(used),
            members_end: end,
            next: AtomicU32::new(first),
        };
        let threads =
            std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX));
        let leases = std::thread::scope(|scope| {
            let load = || self.load_members(&from, &into).inspect_err(|_| from.stop());
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(load)).collect();
            let own = load();
            let others =
                others.into_iter().map(|thread| thread.join().expect("loading does not panic"));
            std::iter::once(own).chain(others).sum::<Result<u32, SnapshotError>>()
        })?;
        region.feed().start_after(right, revision);
        Ok(Loaded { edition: header.edition.get(), half, time: written, leases, header: *header })
    }

    /// Puts members where they belong, one piece of the half after another, until none is left;
    /// returns how many these were.
    fn load_members(&self, from: &Source<'_>, into: &Into<'_>) -> Result<u32, SnapshotError> {
        let Into { region, right, services, time, written } = *into;
        let (mut leases, mut known) = (0, AHashMap::new());
        let (mut members, mut beats) = (Vec::new(), Vec::new());
        while let Some(piece) = from.take_piece() {
            let first_beats =
                self.sizes.beat_block(Slot::new(self.sizes.slots_of(piece.start).start));
            let last_beats =
                self.sizes.beat_block(Slot::new(self.sizes.slots_of(piece.end - 1).end - 1));
            self.read_blocks(from, first_beats..from.beats_end.min(last_beats + 1), &mut beats)?;
            self.read_blocks(from, piece.clone(), &mut members)?;
            let slots = piece.flat_map(|block| self.sizes.slots_of(block).map(Slot::new));
            let entries = members
                .chunks_exact(PAGE)
                .flat_map(|page| page.chunks_exact(self.sizes.member_bytes()));
            for (slot, entry) in slots.zip(entries) {
                let (head, attributes) = MemberHead::ref_from_prefix(entry)
                    .map_err(|_| SnapshotError::Damaged("a block"))?;
                let Some(state) = head.leased() else {
                    if slot.get() < region.geometry().slots {
                        head.restore_generation(region, right, slot);
                    }
                    continue;
                };
                let attributes = attributes
                    .get(..head.attributes_len())
                    .ok_or(SnapshotError::Damaged("a member"))?;
                if slot.get() >= region.geometry().slots
                    || attributes.len() > region.geometry().attributes_bytes
                {
                    return Err(SnapshotError::TooLarge { slot, attributes: attributes.len() });
                }
                let service = match known.get(&head.service) {
                    Some(&service) => service,
                    None => {
                        let service = services
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .find(region, right, &head.service)?;
                        known.insert(head.service, service);
                        service
                    }
                };
                let beat = self
                    .sizes
                    .beat_in(&beats, first_beats, slot)
                    .ok_or(SnapshotError::Damaged("a member"))?;
                head.restore(
                    region,
                    right,
                    Restored { slot, service, state, beat, attributes, time, written },
                );
                leases += 1;
            }
        }
        Ok(leases)
    }

    /// Reads blocks and compares their checksums.
    fn read_blocks(
        &self,
        from: &Source<'_>,
        blocks: Range<u32>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), SnapshotError> {
        buffer.resize(blocks.len() * PAGE, 0);
        self.disk.read_at(buffer, self.sizes.block_at(from.half, blocks.start))?;
        let is_sound =
            |(block, page): (u32, &[u8])| crc32fast::hash(page) == from.table[block as usize].get();
        if blocks.zip(buffer.chunks_exact(PAGE)).all(is_sound) {
            Ok(())
        } else {
            Err(SnapshotError::Damaged("a block"))
        }
    }
}

/// What members are read from, by several threads at once: each takes a piece when it is done with
/// the one before.
struct Source<'a> {
    half: usize,
    table: &'a [U32],
    /// Where the beat blocks end that are in use.
    beats_end: u32,
    /// The same of the member blocks.
    members_end: u32,
    /// The first member block that nobody has taken.
    next: AtomicU32,
}

impl Source<'_> {
    /// Lets nobody take any more.
    fn stop(&self) {
        self.next.store(self.members_end, Relaxed);
    }

    /// Member blocks that nobody else has.
    fn take_piece(&self) -> Option<Range<u32>> {
        let start = self.next.fetch_add(PIECE, Relaxed);
        (start < self.members_end).then(|| start..self.members_end.min(start + PIECE))
    }
}

/// What members are put into, by several threads at once: each has slots of its own.
struct Into<'a> {
    region: &'a Region,
    right: &'a Right,
    services: &'a Mutex<Services>,
    time: EngineTime,
    written: u64,
}

/// The services as they are found again.
struct Services {
    by_name: AHashMap<Name, ServiceNumber>,
    revision: u64,
}

impl Services {
    fn find(
        &mut self,
        region: &Region,
        right: &Right,
        name: &Name,
    ) -> Result<ServiceNumber, SnapshotError> {
        if let Some(&service) = self.by_name.get(name) {
            return Ok(service);
        }
        let service = ServiceNumber::new(self.by_name.len() as u32);
        let entry = region
            .directory()
            .get(service.index())
            .ok_or(SnapshotError::Damaged("more services than there can be"))?;
        let id = service_id(name.as_str());
        entry.sequence().write(right, || {
            entry.set_meta(
                right,
                ServiceMeta {
                    id,
                    revision: self.revision,
                    listed: 0,
                    total: 0,
                    list: ListRef::default(),
                },
            );
            entry.set_name(right, Some(name));
        });
        self.by_name.insert(*name, service);
        Ok(service)
    }
}

/// Empties a region that an edition was put into.
fn wipe(region: &Region, right: &Right) {
    region
        .lines()
        .iter()
        .filter(|line| line.head().0 != Generation::NONE)
        .for_each(|line| line.restore(right, &RestoredLine::FREE));
    for entry in region.directory().iter().filter(|entry| entry.is_used()) {
        entry.sequence().write(right, || entry.set_name(right, None));
    }
}
