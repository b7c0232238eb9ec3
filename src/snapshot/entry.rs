//! What is kept of one slot, copied out of the region and put back into one.

use crate::clock::{Moment, Span};
use crate::limits::ATTRIBUTES_BYTES_MAX;
use crate::region::{HeartState, Record, Region, RestoredLine, Right, ServiceNumber};
use crate::wire::{
    Declared, Endpoint, Generation, Label, Name, Slot, State, Version, endpoint_flags,
};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What beats say.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct BeatEntry {
    history: U64,
    last: U64,
    sequence: U32,
    load: U16,
    declared: U16,
}

/// What registrar and client have agreed; the attributes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct MemberHead {
    pub(super) generation: U32,
    pub(super) state: u8,
    held: u8,
    declared: u8,
    reserved: u8,
    secret: U64,
    nonce: U64,
    ttl: U64,
    until: U64,
    replaced_nonce: U64,
    source: [u8; 16],
    address: [u8; 16],
    version: U64,
    port: U16,
    weight: U16,
    attributes_len: U16,
    reserved_94: [u8; 2],
    zone: Label,
    pub(super) service: Name,
    instance: Name,
    reserved_256: [u8; 8],
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<BeatEntry>() == 24);
    assert!(offset_of!(BeatEntry, last) == 8);
    assert!(offset_of!(BeatEntry, sequence) == 16);
    assert!(offset_of!(BeatEntry, load) == 20);
    assert!(offset_of!(BeatEntry, declared) == 22);
    assert!(size_of::<MemberHead>() == 264);
    assert!(offset_of!(MemberHead, state) == 4);
    assert!(offset_of!(MemberHead, held) == 5);
    assert!(offset_of!(MemberHead, declared) == 6);
    assert!(offset_of!(MemberHead, secret) == 8);
    assert!(offset_of!(MemberHead, nonce) == 16);
    assert!(offset_of!(MemberHead, ttl) == 24);
    assert!(offset_of!(MemberHead, until) == 32);
    assert!(offset_of!(MemberHead, replaced_nonce) == 40);
    assert!(offset_of!(MemberHead, source) == 48);
    assert!(offset_of!(MemberHead, address) == 64);
    assert!(offset_of!(MemberHead, version) == 80);
    assert!(offset_of!(MemberHead, port) == 88);
    assert!(offset_of!(MemberHead, weight) == 90);
    assert!(offset_of!(MemberHead, attributes_len) == 92);
    assert!(offset_of!(MemberHead, zone) == 96);
    assert!(offset_of!(MemberHead, service) == 128);
    assert!(offset_of!(MemberHead, instance) == 192);
};

/// Engine time: nanoseconds in which an engine has run on a file, as an offset from this boot's
/// monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EngineTime(pub(super) i128);

impl EngineTime {
    /// Where it begins: times before that have room.
    pub(super) const START: u64 = 1 << 60;

    /// Engine time that stands at `time` now.
    pub(super) fn going_on(now: Moment, time: u64) -> Self {
        Self(i128::from(time) - i128::from(now.nanos()))
    }

    pub(super) fn of(self, at: Moment) -> u64 {
        (i128::from(at.nanos()) + self.0).clamp(0, i128::from(u64::MAX)) as u64
    }

    pub(super) fn back(self, time: u64) -> Moment {
        Moment::from_nanos((i128::from(time) - self.0).clamp(0, i128::from(u64::MAX)) as u64)
    }
}

impl BeatEntry {
    pub(super) fn copy(region: &Region, slot: Slot, time: EngineTime) -> Self {
        let line = &region.lines()[slot.index()];
        let last = line.last();
        Self {
            history: U64::new(line.history()),
            last: U64::new(time.of(last.at)),
            sequence: U32::new(line.sequence()),
            load: U16::new(last.load),
            declared: U16::new(last.declared as u16),
        }
    }
}

impl MemberHead {
    /// Copies a member as it stands at one moment into an entry that is all zeros. `None`: it kept
    /// changing.
    pub(super) fn copy(
        region: &Region,
        slot: Slot,
        time: EngineTime,
        entry: &mut [u8],
    ) -> Option<()> {
        let mut buffer = [0; ATTRIBUTES_BYTES_MAX];
        // Every change of a member but the first words of a new lease is made under the lock of its
        // record.
        let head = (0..1000).find_map(|_| {
            let read =
                region.records().read_locked(slot, || Self::read(region, slot, time, &mut buffer));
            read.or_else(|| {
                std::thread::yield_now();
                None
            })
        })?;
        let (fixed, tail) = entry.split_at_mut(size_of::<Self>());
        fixed.copy_from_slice(head.as_bytes());
        let length = usize::from(head.attributes_len.get());
        tail[..length].copy_from_slice(&buffer[..length]);
        Some(())
    }

    fn read(
        region: &Region,
        slot: Slot,
        time: EngineTime,
        buffer: &mut [u8; ATTRIBUTES_BYTES_MAX],
    ) -> Self {
        let line = &region.lines()[slot.index()];
        let endpoint = &region.endpoints()[slot.index()];
        let (generation, state) = line.head();
        let entry = endpoint.entry();
        let free = Self { generation: generation.into(), ..Self::new_zeroed() };
        // A lease whose endpoint is another's was not granted to its end: nobody knows of it.
        let Some(state) = state.of_member().filter(|_| entry.generation() == generation) else {
            return free;
        };
        let Some(service) = region.directory().get(endpoint.service().index()) else {
            return free;
        };
        let (record, attributes_len) = region.records().copy(slot, buffer);
        let until = line.until();
        Self {
            state: state as u8,
            held: u8::from(entry.is_held()),
            declared: entry.declared() as u8,
            secret: line.lease(slot).secret,
            nonce: U64::new(line.nonce()),
            ttl: U64::new(line.ttl().nanos()),
            until: U64::new(if until == Moment::ZERO { 0 } else { time.of(until).max(1) }),
            replaced_nonce: U64::new(record.replaced_nonce),
            source: record.source,
            address: entry.address,
            version: U64::new(entry.version.as_u64()),
            port: entry.port,
            weight: entry.weight,
            attributes_len: U16::new(attributes_len as u16),
            zone: record.zone,
            service: service.name(),
            instance: record.instance,
            ..free
        }
    }

    /// The state, if the slot was leased.
    pub(super) fn leased(&self) -> Option<State> {
        State::from_u8(self.state)
    }

    /// Bytes of its attributes.
    pub(super) fn attributes_len(&self) -> usize {
        usize::from(self.attributes_len.get())
    }

    /// Lets the generations of a slot that is not leased go on.
    pub(super) fn restore_generation(&self, region: &Region, right: &Right, slot: Slot) {
        let generation = self.generation.into();
        if generation != Generation::NONE {
            let ended =
                RestoredLine { generation, state: HeartState::Removed, ..RestoredLine::FREE };
            region.lines()[slot.index()].restore(right, &ended);
        }
    }

    /// Puts the member of a service into an empty slot. Endpoint, record and heart line; nothing
    /// else leads to it yet.
    pub(super) fn restore(&self, region: &Region, right: &Right, at: Restored<'_>) {
        let Restored { slot, service, state, beat, attributes, time, written } = at;
        let ttl = self.ttl.get();
        // Whoever was up when this was written had beaten within two thirds of its TTL.
        let silent_since =
            if state == State::Up { written.saturating_sub(ttl - ttl / 3) } else { 0 };
        let record = Record {
            service,
            replaced_nonce: self.replaced_nonce.get(),
            source: self.source,
            zone: self.zone,
            instance: self.instance,
        };
        region.records().write(right, slot, &record, attributes);
        let held = if self.held == 1 { endpoint_flags::HELD } else { 0 };
        let entry = Endpoint {
            address: self.address,
            port: self.port,
            weight: self.weight,
            load: U16::ZERO,
            state: state as u8,
            flags: self.declared & endpoint_flags::DECLARED | held,
            slot: slot.into(),
            generation: self.generation,
            version: Version::from_u64(self.version.get()),
            zone: U32::new(self.zone.hash32()),
            age_ms: U32::ZERO,
        };
        region.endpoints()[slot.index()].set_entry(right, entry);
        region.endpoints()[slot.index()].set_place(right, service, 0);
        region.lines()[slot.index()].restore(
            right,
            &RestoredLine {
                generation: self.generation.into(),
                state: state.into(),
                secret: self.secret.get(),
                nonce: self.nonce.get(),
                ttl: Span::from_nanos(ttl),
                until: if self.until.get() == 0 {
                    Moment::ZERO
                } else {
                    time.back(self.until.get()).max(Moment::from_nanos(1))
                },
                last: time.back(beat.last.get().max(silent_since)),
                history: beat.history.get(),
                sequence: beat.sequence.get(),
                load: beat.load.get(),
                declared: Declared::from_bits(u64::from(beat.declared.get())),
            },
        );
    }
}

/// Where a member goes, and what else is known of it.
pub(super) struct Restored<'a> {
    pub(super) slot: Slot,
    pub(super) service: ServiceNumber,
    pub(super) state: State,
    pub(super) beat: &'a BeatEntry,
    pub(super) attributes: &'a [u8],
    pub(super) time: EngineTime,
    /// Engine time when the edition was written.
    pub(super) written: u64,
}
