//! Discovery: which endpoints of a service, chosen how.

use crate::address::unmap_ip;
use crate::limits::{DISCOVER_REPLY_BYTES, ENDPOINT_BYTES};
use crate::{Declared, Generation, Label, Slot, State, Version};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes, Unaligned};

/// The body of a discover request.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Discover {
    /// From a hello reply, or 0.
    pub cookie: U64,
    /// [`super::service_id`] of the name.
    pub service: U64,
    /// Key of the rendezvous hash.
    pub key: U64,
    /// What the version filters compare with.
    pub version: Version,
    /// 0 at first, then from the reply before; strategy `all` only.
    pub cursor: U32,
    /// Most endpoints wanted; 0: a full page for `all`, one for the picking strategies.
    pub limit: U16,
    /// A [`Strategy`].
    pub strategy: u8,
    /// Bits of [`Filter`].
    pub filter: u8,
    /// What the zone filters compare with.
    pub zone: Label,
    /// What the tag filter compares with: a whole attribute entry.
    pub tag: Label,
}

/// How endpoints are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
#[repr(u8)]
pub enum Strategy {
    /// Every one, in pages; draining and maintenance included, marked.
    All = 0,
    /// Each with the same chance.
    Random = 1,
    /// The next ones in turn.
    RoundRobin = 2,
    /// Each with a chance in proportion to its weight.
    Weighted = 3,
    /// The highest of a weighted rendezvous hash of key and endpoint address: the same key finds
    /// the same endpoint.
    Rendezvous = 4,
    /// The less loaded of two random ones.
    TwoChoices = 5,
}

impl Strategy {
    /// The strategy with this number.
    #[inline]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::try_read_from_bytes(&[number]).ok()
    }
}

/// Bits of [`Discover::filter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter(pub u8);

impl Filter {
    /// The version is the stated one.
    pub const VERSION_EXACT: u8 = 1;
    /// The version has the same major number and is not older.
    pub const VERSION_COMPATIBLE: u8 = 2;
    /// The zone is the stated one.
    pub const ZONE_ONLY: u8 = 4;
    /// The zone is the stated one if any endpoint there may be answered, else any zone.
    pub const ZONE_PREFERRED: u8 = 8;
    /// The attributes have the stated entry.
    pub const TAG: u8 = 16;
    /// Suspect instances don't count.
    pub const NO_SUSPECT: u8 = 32;

    /// Whether the bit is set.
    #[inline]
    pub const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    /// No unknown bit, and of each pair at most one.
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.0 & !63 == 0 && self.0 & 3 != 3 && self.0 & 12 != 12
    }
}

/// Bits of [`Endpoint::flags`].
pub mod endpoint_flags {
    /// Bits 0 and 1: what the instance says of itself ([`Declared`](crate::Declared)).
    pub const DECLARED: u8 = 3;
    /// Its deadline has passed, and a hold keeps it from being declared down.
    pub const HELD: u8 = 4;
}

/// One instance as discovery answers it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Endpoint {
    /// IPv6, or IPv4 mapped into it.
    pub address: [u8; 16],
    /// Port at which it serves; 0 when it has none.
    pub port: U16,
    /// Share of weighted picks.
    pub weight: U16,
    /// Load of the last beat.
    pub load: U16,
    /// A [`State`].
    pub state: u8,
    /// [`endpoint_flags`].
    pub flags: u8,
    /// With the generation: which instance, for describe.
    pub slot: U32,
    /// Which use of the slot.
    pub generation: U32,
    /// Version that was registered or set by an update; 0 when none was stated.
    pub version: Version,
    /// Low 32 bits of the FNV-1a hash of the zone; 0 for none.
    pub zone: U32,
    /// Milliseconds since the last beat, at most 2^32 - 1.
    pub age_ms: U32,
}

impl Endpoint {
    /// The state, if it is one.
    #[inline]
    pub fn state(&self) -> Option<State> {
        State::from_u8(self.state)
    }

    /// The slot as a type of its own.
    #[inline]
    pub fn slot(&self) -> Slot {
        self.slot.into()
    }

    /// The generation as a type of its own.
    #[inline]
    pub fn generation(&self) -> Generation {
        self.generation.into()
    }

    /// Address and port; an IPv4 address is given as one.
    #[inline]
    pub fn socket_addr(&self) -> std::net::SocketAddr {
        std::net::SocketAddr::new(unmap_ip(self.address), self.port.get())
    }

    /// Whether a hold keeps it from being declared down.
    #[inline]
    pub fn is_held(&self) -> bool {
        self.flags & endpoint_flags::HELD != 0
    }

    /// What the instance says of itself.
    #[inline]
    pub fn declared(&self) -> Declared {
        Declared::from_bits(u64::from(self.flags))
    }
}

/// The start of the body of a discover reply; [`Endpoint`] entries follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoverHead {
    /// Version of the service's list; when it differs between two pages, the list changed in
    /// between.
    pub version: U64,
    /// Where the next page starts; 0 when this was the last.
    pub cursor: U32,
    /// Percent of live instances that were silent when the hold that is on began; 0 with no hold.
    pub hold_percent: u8,
    /// Zeros in this version of the format.
    pub reserved: [u8; 3],
}

const _: () = {
    assert!(size_of::<Discover>() == 104);
    assert!(std::mem::offset_of!(Discover, service) == 8);
    assert!(std::mem::offset_of!(Discover, key) == 16);
    assert!(std::mem::offset_of!(Discover, version) == 24);
    assert!(std::mem::offset_of!(Discover, cursor) == 32);
    assert!(std::mem::offset_of!(Discover, limit) == 36);
    assert!(std::mem::offset_of!(Discover, strategy) == 38);
    assert!(std::mem::offset_of!(Discover, filter) == 39);
    assert!(std::mem::offset_of!(Discover, zone) == 40);
    assert!(std::mem::offset_of!(Discover, tag) == 72);
    assert!(size_of::<Endpoint>() == 48 && ENDPOINT_BYTES == 48);
    assert!(std::mem::offset_of!(Endpoint, port) == 16);
    assert!(std::mem::offset_of!(Endpoint, weight) == 18);
    assert!(std::mem::offset_of!(Endpoint, load) == 20);
    assert!(std::mem::offset_of!(Endpoint, state) == 22);
    assert!(std::mem::offset_of!(Endpoint, flags) == 23);
    assert!(std::mem::offset_of!(Endpoint, slot) == 24);
    assert!(std::mem::offset_of!(Endpoint, generation) == 28);
    assert!(std::mem::offset_of!(Endpoint, version) == 32);
    assert!(std::mem::offset_of!(Endpoint, zone) == 40);
    assert!(std::mem::offset_of!(Endpoint, age_ms) == 44);
    assert!(size_of::<DiscoverHead>() == 16 && DISCOVER_REPLY_BYTES == 16);
    assert!(std::mem::offset_of!(DiscoverHead, cursor) == 8);
    assert!(std::mem::offset_of!(DiscoverHead, hold_percent) == 12);
};
