//! Hello: a client proves that it receives at its address, and learns what the engine accepts.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The body of a hello request: zeros, as many as the reply has bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Hello {
    /// Zeros in this version of the format.
    pub reserved: [u8; 48],
}

/// The body of a hello reply.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Welcome {
    /// Proof of the requester's IP address, for the requests that take one.
    pub cookie: U64,
    /// Random number of this run of the engine.
    pub epoch: U64,
    /// Leases that the engine is sized for.
    pub capacity: U32,
    /// Milliseconds for which the cookie is good at least.
    pub cookie_ms: U32,
    /// Shortest TTL that the engine grants, in milliseconds.
    pub ttl_ms_min: U32,
    /// Longest TTL that the engine grants, in milliseconds.
    pub ttl_ms_max: U32,
    /// Most beats in a frame.
    pub beats_max: U16,
    /// Most endpoints in a discover reply.
    pub endpoints_max: U16,
    /// Longest datagram in either direction, in bytes.
    pub frame_bytes_max: U16,
    /// Largest attribute tail.
    pub attributes_bytes_max: U16,
    /// Zeros in this version of the format.
    pub reserved: [u8; 8],
}

const _: () = {
    assert!(size_of::<Hello>() == 48 && size_of::<Welcome>() == 48);
    assert!(std::mem::offset_of!(Welcome, epoch) == 8);
    assert!(std::mem::offset_of!(Welcome, capacity) == 16);
    assert!(std::mem::offset_of!(Welcome, cookie_ms) == 20);
    assert!(std::mem::offset_of!(Welcome, ttl_ms_min) == 24);
    assert!(std::mem::offset_of!(Welcome, ttl_ms_max) == 28);
    assert!(std::mem::offset_of!(Welcome, beats_max) == 32);
    assert!(std::mem::offset_of!(Welcome, endpoints_max) == 34);
    assert!(std::mem::offset_of!(Welcome, frame_bytes_max) == 36);
    assert!(std::mem::offset_of!(Welcome, attributes_bytes_max) == 38);
};
