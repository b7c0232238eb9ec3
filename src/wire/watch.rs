//! Watching: who asked for changes, what is pushed to him, and what he says he received.

use crate::limits::{ENDPOINT_BYTES, ENDPOINTS_PER_PUSH_MAX, FRAME_BYTES_MAX, PUSH_BYTES};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The body of a watch request: begins, renews or ends a watch. Source address, source port and tag
/// name the watch.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Watch {
    /// From a hello reply.
    pub cookie: U64,
    /// [`super::service_id`] of the name; 0: the list of services.
    pub service: U64,
    /// Of the newest watch reply or push that was received; 0 before the first.
    pub proof: U64,
    /// Version of the list that the watcher has; 0: none.
    pub version: U64,
    /// For how long the watch is to stand, in milliseconds; 0: it ends.
    pub ttl_ms: U32,
    /// Number that goes with `proof`.
    pub number: U32,
}

/// The body of a watch reply.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Watching {
    /// Proves that this reply was received.
    pub proof: U64,
    /// Version of the list now; 0: there is no such service.
    pub version: U64,
    /// Random number of this run of the engine.
    pub epoch: U64,
    /// Number of the newest push of this watch; 0 before the first.
    pub number: U32,
    /// For how long the watch stands, in milliseconds.
    pub ttl_ms: U32,
    /// Bytes of pushes that are sent until the next proof.
    pub credit: U32,
    /// Percent of live instances that were silent when the hold that is on began; 0 with no hold.
    pub hold_percent: u8,
    /// Zeros in this version of the format.
    pub reserved: [u8; 3],
}

/// The start of the body of a push; [`super::Endpoint`] entries follow. An entry whose state is
/// neither up nor suspect is no longer listed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PushHead {
    /// Proves that this push was received.
    pub proof: U64,
    /// Version of the list that the entries change.
    pub before: U64,
    /// Version after them. With another `before` and no entries: the list must be asked for.
    pub after: U64,
    /// Counts the pushes of a watch from 1 on.
    pub number: U32,
    /// As in [`Watching`].
    pub hold_percent: u8,
    /// Zeros in this version of the format.
    pub reserved: [u8; 3],
}

/// The body of the request that says that a push was received. It is never answered.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Received {
    /// From a hello reply.
    pub cookie: U64,
    /// Of the newest push.
    pub proof: U64,
    /// Of the newest push.
    pub number: U32,
    /// Zeros in this version of the format.
    pub reserved: [u8; 4],
}

const _: () = {
    assert!(size_of::<Watch>() == 40);
    assert!(std::mem::offset_of!(Watch, service) == 8);
    assert!(std::mem::offset_of!(Watch, proof) == 16);
    assert!(std::mem::offset_of!(Watch, version) == 24);
    assert!(std::mem::offset_of!(Watch, ttl_ms) == 32);
    assert!(std::mem::offset_of!(Watch, number) == 36);
    assert!(size_of::<Watching>() == 40);
    assert!(std::mem::offset_of!(Watching, version) == 8);
    assert!(std::mem::offset_of!(Watching, epoch) == 16);
    assert!(std::mem::offset_of!(Watching, number) == 24);
    assert!(std::mem::offset_of!(Watching, ttl_ms) == 28);
    assert!(std::mem::offset_of!(Watching, credit) == 32);
    assert!(std::mem::offset_of!(Watching, hold_percent) == 36);
    assert!(size_of::<PushHead>() == 32 && PUSH_BYTES == 32);
    assert!(std::mem::offset_of!(PushHead, before) == 8);
    assert!(std::mem::offset_of!(PushHead, after) == 16);
    assert!(std::mem::offset_of!(PushHead, number) == 24);
    assert!(std::mem::offset_of!(PushHead, hold_percent) == 28);
    assert!(size_of::<Received>() == 24);
    assert!(std::mem::offset_of!(Received, proof) == 8);
    assert!(std::mem::offset_of!(Received, number) == 16);
    // A watch reply is no longer than its request.
    assert!(size_of::<Watching>() <= size_of::<Watch>());
    assert!(16 + PUSH_BYTES + ENDPOINTS_PER_PUSH_MAX * ENDPOINT_BYTES <= FRAME_BYTES_MAX);
};
