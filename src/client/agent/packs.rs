//! Packs: up to fifty leases of one TTL at one engine that beat together, in one frame and with one
//! timer. The frame stands ready in wire form, so that a round of beats adds one to each sequence
//! and copies nothing.

use super::limits::{ACK_EVERY, FAREWELL_AGAIN, FAREWELL_PATIENCE, INTERVAL_MIN, LATE};
use heartline_wire::limits::BEATS_PER_FRAME_MAX;
use heartline_wire::time::Nanos;
use heartline_wire::{Beat, Declared, Header, Kind, Lease, header_flags};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// Stands for no pack.
pub(super) const NO_PACK: u32 = u32::MAX;

/// The datagram of a pack; only as many beats are sent as there are leases.
#[derive(IntoBytes, Immutable, FromZeros)]
#[repr(C)]
struct BeatFrame {
    header: Header,
    beats: [Beat; BEATS_PER_FRAME_MAX],
}

const _: () = {
    assert!(size_of::<BeatFrame>() == 1216);
    assert!(std::mem::offset_of!(BeatFrame, beats) == 16);
};

pub(super) struct Pack {
    frame: BeatFrame,
    /// The post of each beat.
    posts: [u32; BEATS_PER_FRAME_MAX],
    count: u8,
    /// How many of them say good-bye.
    leaving: u8,
    /// Frames with good-byes since the last one that was answered.
    farewells: u8,
    /// Frames since the last ack that was wanted or came.
    unasked: u8,
    is_open: bool,
    ttl_ms: u32,
    interval: Nanos,
    pub(super) due: Nanos,
    /// Which timer of it counts.
    pub(super) stamp: u32,
    /// Tag of the frame sent last, and how many beats it had.
    tag: u64,
    sent: u8,
}

/// What a pack did when its time came.
pub(super) struct Beaten {
    pub(super) beats: u64,
    pub(super) late: Option<Nanos>,
    pub(super) wants_ack: bool,
}

impl Pack {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.frame.as_bytes()[..size_of::<Header>() + usize::from(self.count) * size_of::<Beat>()]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn posts(&self) -> &[u32] {
        &self.posts[..usize::from(self.count)]
    }

    pub(super) fn farewells(&self) -> u8 {
        self.farewells
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving > 0
    }

    fn beats(&mut self) -> &mut [Beat] {
        &mut self.frame.beats[..usize::from(self.count)]
    }

    /// The next frame. Every sequence grows, whatever became of the frame before.
    pub(super) fn beat(&mut self, now: Nanos, tag: u64) -> Beaten {
        let late = now.saturating_sub(self.due);
        let next = self.due.saturating_add(self.interval);
        self.due = if late > self.interval / 2 { now + self.interval } else { next };
        if self.leaving > 0 {
            self.due = self.due.min(now + (FAREWELL_PATIENCE << self.farewells.min(4)));
            self.farewells = self.farewells.saturating_add(1);
        }
        self.unasked = self.unasked.saturating_add(1);
        let wants_ack = self.unasked >= ACK_EVERY || self.leaving > 0;
        for beat in self.beats() {
            beat.sequence = U32::new(beat.sequence.get().wrapping_add(1));
        }
        let header = &mut self.frame.header;
        header.count = U16::new(self.count.into());
        header.tag = U64::new(tag);
        header.flags = if wants_ack { header_flags::ACK_WANTED } else { 0 };
        (self.tag, self.sent) = (tag, self.count);
        let tolerance = LATE.min(self.interval / 4);
        Beaten { beats: self.count.into(), late: (late >= tolerance).then_some(late), wants_ack }
    }

    /// The next frame wants an ack.
    pub(super) fn ask(&mut self) {
        self.unasked = ACK_EVERY;
    }

    /// An answer to a frame of this pack; whether to the one sent last.
    pub(super) fn answered(&mut self, tag: u64) -> bool {
        (self.unasked, self.farewells) = (0, 0);
        self.tag == tag
    }

    /// The times that an ack asks for. A frame that is due already is not put off, and farewells
    /// that are left over are said again soon.
    pub(super) fn pace(&mut self, now: Nanos, interval: Nanos, phase: Nanos) {
        self.interval = interval.max(INTERVAL_MIN);
        if !self.repeat_farewells(now) && self.due > now {
            self.due = now + phase.max(INTERVAL_MIN);
        }
    }

    /// Whether every beat of the frame sent last counted.
    pub(super) fn is_complete(&self, accepted: u16) -> bool {
        accepted == u16::from(self.sent)
    }

    /// Says farewells that are left over again soon; whether there are any.
    pub(super) fn repeat_farewells(&mut self, now: Nanos) -> bool {
        if self.leaving > 0 {
            self.due = self.due.min(now + FAREWELL_AGAIN);
        }
        self.leaving > 0
    }

    /// The posts whose leases have this slot and generation: one, or a second one from an engine
    /// process before.
    pub(super) fn matching(&self, slot: U32, generation: U32) -> impl Iterator<Item = u32> {
        let beats = self.frame.beats.iter().zip(self.posts());
        let same = beats.filter(move |(beat, _)| {
            beat.lease.slot == slot && beat.lease.generation == generation
        });
        same.map(|(_, post)| *post)
    }

    pub(super) fn set_load(&mut self, place: u8, load: u16) {
        self.beats()[usize::from(place)].load = U16::new(load);
    }

    /// What a lease declares from the next beat on, which is sent at once.
    pub(super) fn declare(&mut self, now: Nanos, place: u8, declared: Declared) {
        let flags = &mut self.beats()[usize::from(place)].flags;
        let was_leaving = flags.get() == Declared::Leaving as u16;
        *flags = U16::new(declared as u16);
        self.due = self.due.min(now);
        if declared == Declared::Leaving && !was_leaving {
            self.leaving += 1;
            self.farewells = 0;
        }
    }
}

/// A lease that joins a pack.
pub(super) struct Joining {
    pub(super) post: u32,
    pub(super) lease: Lease,
    pub(super) load: u16,
    pub(super) declared: Declared,
    pub(super) ttl_ms: u32,
    pub(super) interval: Nanos,
    /// When its first beat is due.
    pub(super) due: Nanos,
}

/// The packs of one engine.
#[derive(Default)]
pub(super) struct Packs {
    packs: Vec<Pack>,
    free: Vec<u32>,
    /// For each TTL the packs that have room.
    open: Vec<(u32, Vec<u32>)>,
    beating: usize,
}

impl Packs {
    pub(super) fn get(&self, pack: u32) -> &Pack {
        &self.packs[pack as usize]
    }

    pub(super) fn get_mut(&mut self, pack: u32) -> &mut Pack {
        &mut self.packs[pack as usize]
    }

    /// A pack of which a reply told.
    pub(super) fn told(&self, pack: u32) -> Option<&Pack> {
        self.packs.get(pack as usize).filter(|pack| !pack.is_empty())
    }

    pub(super) fn beating(&self) -> usize {
        self.beating
    }

    pub(super) fn ask_all(&mut self) {
        self.packs.iter_mut().for_each(Pack::ask);
    }

    /// Puts a lease into a pack with room; its pack and place, and whether the pack is a new one.
    pub(super) fn join(&mut self, joining: &Joining) -> (u32, u8, bool) {
        let (number, is_new) = match self.open_packs(joining.ttl_ms).last() {
            Some(&number) => (number, false),
            None => (self.new_pack(joining), true),
        };
        let pack = &mut self.packs[number as usize];
        let place = pack.count;
        pack.count += 1;
        pack.posts[usize::from(place)] = joining.post;
        pack.frame.beats[usize::from(place)] = Beat {
            lease: joining.lease,
            sequence: U32::ZERO,
            load: U16::new(joining.load),
            flags: U16::new(joining.declared as u16),
        };
        if usize::from(pack.count) == BEATS_PER_FRAME_MAX {
            pack.is_open = false;
            self.open_packs(joining.ttl_ms).pop();
        }
        self.beating += 1;
        (number, place, is_new)
    }

    /// Takes a lease out; the post that has its place now, if that is another.
    pub(super) fn leave(&mut self, number: u32, place: u8) -> Option<u32> {
        let pack = &mut self.packs[number as usize];
        let (place, last) = (usize::from(place), usize::from(pack.count) - 1);
        if pack.frame.beats[place].flags.get() == Declared::Leaving as u16 {
            pack.leaving -= 1;
        }
        pack.frame.beats[place] = pack.frame.beats[last];
        pack.posts[place] = pack.posts[last];
        pack.count -= 1;
        // An ack of what was sent before can't be told apart from one of what is left.
        pack.sent = u8::MAX;
        self.beating -= 1;
        let moved = (place != last).then_some(pack.posts[place]);
        let (ttl_ms, was_open) = (pack.ttl_ms, pack.is_open);
        if pack.is_empty() {
            pack.is_open = false;
            pack.stamp = pack.stamp.wrapping_add(1);
            self.free.push(number);
            if was_open {
                self.open_packs(ttl_ms).retain(|&open| open != number);
            }
        } else if !was_open {
            pack.is_open = true;
            self.open_packs(ttl_ms).push(number);
        }
        moved
    }

    fn open_packs(&mut self, ttl_ms: u32) -> &mut Vec<u32> {
        let at = self.open.iter().position(|(ttl, _)| *ttl == ttl_ms).unwrap_or_else(|| {
            self.open.push((ttl_ms, Vec::new()));
            self.open.len() - 1
        });
        &mut self.open[at].1
    }

    fn new_pack(&mut self, joining: &Joining) -> u32 {
        let mut pack = Pack {
            frame: BeatFrame::new_zeroed(),
            posts: [u32::MAX; BEATS_PER_FRAME_MAX],
            count: 0,
            leaving: 0,
            farewells: 0,
            // The first frame wants an ack, which gives the pack its place in the interval.
            unasked: ACK_EVERY,
            is_open: true,
            ttl_ms: joining.ttl_ms,
            interval: joining.interval.max(INTERVAL_MIN),
            due: joining.due,
            stamp: 0,
            tag: 0,
            sent: 0,
        };
        pack.frame.header = Header::request(Kind::Beat, 0);
        let number = match self.free.pop() {
            Some(number) => {
                // Timers of the pack that was here before count no more.
                pack.stamp = self.packs[number as usize].stamp.wrapping_add(1);
                self.packs[number as usize] = pack;
                number
            }
            None => {
                self.packs.push(pack);
                self.packs.len() as u32 - 1
            }
        };
        self.open_packs(joining.ttl_ms).push(number);
        number
    }
}
