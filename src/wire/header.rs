//! The 16 bytes that open every frame.

use crate::limits::HEADER_BYTES;
use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes, Unaligned};

/// The first two bytes of every frame.
pub const MAGIC: [u8; 2] = *b"HL";
/// The version of the wire format that this code speaks.
pub const WIRE_VERSION: u8 = 1;
/// The bit of [`Header::kind`] that marks a reply. A frame that carries it is never answered.
pub const REPLY_BIT: u8 = 0x80;

/// Bits of [`Header::flags`].
pub mod header_flags {
    /// Beat requests: answer with an ack.
    pub const ACK_WANTED: u8 = 1;
    /// Replies to discover, describe and watch, and pushes: a hold is on somewhere in the engine.
    pub const HOLD: u8 = 1;
    /// Pushes: say that it was received.
    pub const RECEIPT_WANTED: u8 = 2;
}

/// What a frame asks, without the direction bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
#[repr(u8)]
pub enum Kind {
    /// Prove an address, learn epoch and limits.
    Hello = 1,
    /// Ask for a lease.
    Register = 2,
    /// 1 to 50 beats.
    Beat = 3,
    /// Change weight, load, version or attributes.
    Update = 4,
    /// Give the lease back.
    Deregister = 5,
    /// Everything about one instance.
    Describe = 6,
    /// The services there are, in pages.
    Services = 7,
    /// The endpoints of one service.
    Discover = 8,
    /// Counters of the engine.
    Stats = 9,
    /// Changes of one service, or of the list of services, from now on.
    Watch = 10,
    /// From the engine: changes. From a watcher: the push was received.
    Push = 11,
}

impl Kind {
    /// The kind with this number, direction bit cleared.
    #[inline]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::try_read_from_bytes(&[number]).ok()
    }
}

/// The frame header, little-endian.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 2],
    /// [`WIRE_VERSION`].
    pub version: u8,
    /// A [`Kind`], with [`REPLY_BIT`] in replies.
    pub kind: u8,
    /// Entries that follow, where the kind has entries; beats that counted, in an ack; the offset
    /// of the wrong field, with status invalid.
    pub count: U16,
    /// [`header_flags`].
    pub flags: u8,
    /// A [`super::Status`] in replies, 0 in requests.
    pub status: u8,
    /// Chosen by the requester, echoed in the reply.
    pub tag: U64,
}

const _: () = {
    assert!(size_of::<Header>() == 16 && HEADER_BYTES == 16);
    assert!(std::mem::offset_of!(Header, magic) == 0);
    assert!(std::mem::offset_of!(Header, version) == 2);
    assert!(std::mem::offset_of!(Header, kind) == 3);
    assert!(std::mem::offset_of!(Header, count) == 4);
    assert!(std::mem::offset_of!(Header, flags) == 6);
    assert!(std::mem::offset_of!(Header, status) == 7);
    assert!(std::mem::offset_of!(Header, tag) == 8);
};

impl Header {
    /// A request header without entries or flags.
    pub fn request(kind: Kind, tag: u64) -> Self {
        Self {
            magic: MAGIC,
            version: WIRE_VERSION,
            kind: kind as u8,
            count: U16::ZERO,
            flags: 0,
            status: 0,
            tag: U64::new(tag),
        }
    }

    /// A reply header.
    pub fn reply(kind: Kind, status: super::Status, count: u16, tag: U64) -> Self {
        Self {
            magic: MAGIC,
            version: WIRE_VERSION,
            kind: kind as u8 | REPLY_BIT,
            count: U16::new(count),
            flags: 0,
            status: status as u8,
            tag,
        }
    }
}
