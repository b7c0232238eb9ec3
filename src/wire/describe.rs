//! Everything about one instance.

use super::{Endpoint, Label, Name};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The body of a describe request. With an empty service name the slot and generation say which
/// instance, else the names do.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Describe {
    /// From a hello reply, or 0.
    pub cookie: U64,
    /// From an endpoint or a lease.
    pub slot: U32,
    /// From an endpoint or a lease.
    pub generation: U32,
    /// Service name, or empty.
    pub service: Name,
    /// Instance name, or empty.
    pub instance: Name,
}

/// The body of a describe reply; the attributes follow it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Description {
    /// As discovery answers it; the state may be down here.
    pub endpoint: Endpoint,
    /// Version of the service's list.
    pub service_version: U64,
    /// Bit 0 is the newest beat; 1: it came within half a TTL after the one before.
    pub history: U64,
    /// TTL in milliseconds.
    pub ttl_ms: U32,
    /// Milliseconds since the hold that is on began; 0 with no hold.
    pub hold_ms: U32,
    /// Instances that were silent when the hold began.
    pub hold_silent: U32,
    /// Instances that were live when the hold began.
    pub hold_live: U32,
    /// Bytes of attributes that follow.
    pub attributes_len: U16,
    /// Zeros in this version of the format.
    pub reserved: [u8; 6],
    /// Where it runs; may be empty.
    pub zone: Label,
    /// Name of its service.
    pub service: Name,
    /// Its name in the service.
    pub instance: Name,
}

const _: () = {
    assert!(size_of::<Describe>() == 144);
    assert!(std::mem::offset_of!(Describe, slot) == 8);
    assert!(std::mem::offset_of!(Describe, generation) == 12);
    assert!(std::mem::offset_of!(Describe, service) == 16);
    assert!(std::mem::offset_of!(Describe, instance) == 80);
    assert!(size_of::<Description>() == 248);
    assert!(std::mem::offset_of!(Description, service_version) == 48);
    assert!(std::mem::offset_of!(Description, history) == 56);
    assert!(std::mem::offset_of!(Description, ttl_ms) == 64);
    assert!(std::mem::offset_of!(Description, hold_ms) == 68);
    assert!(std::mem::offset_of!(Description, hold_silent) == 72);
    assert!(std::mem::offset_of!(Description, hold_live) == 76);
    assert!(std::mem::offset_of!(Description, attributes_len) == 80);
    assert!(std::mem::offset_of!(Description, zone) == 88);
    assert!(std::mem::offset_of!(Description, service) == 120);
    assert!(std::mem::offset_of!(Description, instance) == 184);
};
