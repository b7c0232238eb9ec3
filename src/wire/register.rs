//! Registering an instance.

use super::{Label, Lease, Name, Version};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The body of a register request; the attributes follow it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Register {
    /// From a hello reply to the same IP address.
    pub cookie: U64,
    /// Random; the same nonce for the same identity gets the same lease again.
    pub nonce: U64,
    /// Where the instance serves: IPv6, or IPv4 mapped into it (RFC 4291, section 2.5.5.2); all
    /// zeros: the source address.
    pub address: [u8; 16],
    /// Port at which the instance serves; 0 when it has none.
    pub port: U16,
    /// Share of weighted picks; 0 is never picked by weight.
    pub weight: U16,
    /// Time to live in milliseconds.
    pub ttl_ms: U32,
    /// Version of the instance.
    pub version: Version,
    /// Bytes of attributes that follow.
    pub attributes_len: U16,
    /// What the instance says of itself until its first beat: a [`super::Declared`], not leaving.
    pub declared: u8,
    /// Zeros in this version of the format.
    pub reserved: [u8; 5],
    /// Where it runs; may be empty.
    pub zone: Label,
    /// Name of the service.
    pub service: Name,
    /// Instance name, unique in the service.
    pub instance: Name,
}

/// The body of a reply to register.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Granted {
    /// The lease that was granted.
    pub lease: Lease,
    /// Random number of this run of the engine.
    pub epoch: U64,
    /// Time between beats that the engine wants, in microseconds.
    pub interval_us: U32,
    /// Time from this reply to the first beat that the engine wants, in microseconds.
    pub phase_us: U32,
    /// The TTL of the lease in milliseconds.
    pub ttl_ms: U32,
    /// Zeros in this version of the format.
    pub reserved: [u8; 4],
}

const _: () = {
    assert!(size_of::<Register>() == 216);
    assert!(std::mem::offset_of!(Register, nonce) == 8);
    assert!(std::mem::offset_of!(Register, address) == 16);
    assert!(std::mem::offset_of!(Register, port) == 32);
    assert!(std::mem::offset_of!(Register, weight) == 34);
    assert!(std::mem::offset_of!(Register, ttl_ms) == 36);
    assert!(std::mem::offset_of!(Register, version) == 40);
    assert!(std::mem::offset_of!(Register, attributes_len) == 48);
    assert!(std::mem::offset_of!(Register, declared) == 50);
    assert!(std::mem::offset_of!(Register, zone) == 56);
    assert!(std::mem::offset_of!(Register, service) == 88);
    assert!(std::mem::offset_of!(Register, instance) == 152);
    assert!(size_of::<Granted>() == 40);
    assert!(std::mem::offset_of!(Granted, epoch) == 16);
    assert!(std::mem::offset_of!(Granted, interval_us) == 24);
    assert!(std::mem::offset_of!(Granted, phase_us) == 28);
    assert!(std::mem::offset_of!(Granted, ttl_ms) == 32);
};
