//! Leases, and the two requests that only a lease allows: update and deregister.

use super::{Generation, Slot, Version};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The right to beat for, change and remove one instance.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Lease {
    /// Which heart line.
    pub slot: U32,
    /// Which use of that slot.
    pub generation: U32,
    /// 64 random bits.
    pub secret: U64,
}

impl Lease {
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
}

/// Bits of [`Update::fields`].
pub mod update_fields {
    /// [`super::Update::weight`] is to be taken.
    pub const WEIGHT: u16 = 1;
    /// [`super::Update::load`] is to be taken.
    pub const LOAD: u16 = 2;
    /// [`super::Update::version`] is to be taken.
    pub const VERSION: u16 = 4;
    /// The attributes that follow replace those there are.
    pub const ATTRIBUTES: u16 = 8;
    /// All of them.
    pub const ALL: u16 = 15;
}

/// The body of an update request; the attributes follow it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Update {
    /// The lease of the instance that changes.
    pub lease: Lease,
    /// [`update_fields`]: what to change.
    pub fields: U16,
    /// The new weight.
    pub weight: U16,
    /// The new load.
    pub load: U16,
    /// Bytes of attributes that follow.
    pub attributes_len: U16,
    /// The new version.
    pub version: Version,
}

/// The body of a deregister request.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Deregister {
    /// The lease that ends.
    pub lease: Lease,
}

/// The body of the replies to update and deregister.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Changed {
    /// Random number of this run of the engine.
    pub epoch: U64,
}

const _: () = {
    assert!(size_of::<Lease>() == 16);
    assert!(std::mem::offset_of!(Lease, generation) == 4);
    assert!(std::mem::offset_of!(Lease, secret) == 8);
    assert!(size_of::<Update>() == 32);
    assert!(std::mem::offset_of!(Update, fields) == 16);
    assert!(std::mem::offset_of!(Update, weight) == 18);
    assert!(std::mem::offset_of!(Update, load) == 20);
    assert!(std::mem::offset_of!(Update, attributes_len) == 22);
    assert!(std::mem::offset_of!(Update, version) == 24);
    assert!(size_of::<Deregister>() == 16);
    // The reply is shorter than either request.
    assert!(size_of::<Changed>() == 8 && size_of::<Changed>() <= size_of::<Deregister>());
};
