//! The frames of the local socket: a process of the same machine shows the leases that end with it.
//! `docs/LOCAL.md` states them for other languages.

use crate::{Generation, Lease, Slot, Status};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes, Unaligned};

/// `HLLO` as a little-endian number: what a greeting begins with.
pub const LOCAL_MAGIC: u32 = u32::from_le_bytes(*b"HLLO");
/// Version of these frames.
pub const LOCAL_VERSION: u16 = 1;

/// The first thing that the engine says on a connection.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LocalGreeting {
    /// [`LOCAL_MAGIC`].
    pub magic: U32,
    /// [`LOCAL_VERSION`].
    pub version: U16,
    /// Zeros in this version.
    pub reserved: [u8; 2],
    /// Random number of this run of the engine, as its datagrams have it.
    pub epoch: U64,
    /// Leases that one connection may show.
    pub leases_max: U32,
    /// Zeros in this version.
    pub reserved_20: [u8; 4],
}

/// What a process asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
#[repr(u8)]
pub enum LocalKind {
    /// The lease ends with the process: from now on the end of the connection is its death.
    Show = 1,
    /// The lease does not depend on the process any more.
    TakeBack = 2,
    /// None does: the end of the connection means nothing. The engine answers and closes.
    LetGo = 3,
}

/// A request on a connection.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LocalRequest {
    /// A [`LocalKind`].
    pub kind: u8,
    /// Zeros in this version.
    pub reserved: [u8; 7],
    /// The lease; zeros to let go.
    pub lease: Lease,
}

/// The answer to a request; answers come in the order of the requests.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LocalReply {
    /// That of the request.
    pub kind: u8,
    /// A [`Status`]: ok, unknown, replaced, removed, or full.
    pub status: u8,
    /// Zeros in this version.
    pub reserved: [u8; 2],
    /// Slot of the lease.
    pub slot: U32,
    /// Generation of the lease.
    pub generation: U32,
    /// Zeros in this version.
    pub reserved_12: [u8; 4],
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<LocalGreeting>() == 24);
    assert!(offset_of!(LocalGreeting, version) == 4);
    assert!(offset_of!(LocalGreeting, epoch) == 8);
    assert!(offset_of!(LocalGreeting, leases_max) == 16);
    assert!(size_of::<LocalRequest>() == 24);
    assert!(offset_of!(LocalRequest, lease) == 8);
    assert!(size_of::<LocalReply>() == 16);
    assert!(offset_of!(LocalReply, status) == 1);
    assert!(offset_of!(LocalReply, slot) == 4);
    assert!(offset_of!(LocalReply, generation) == 8);
};

impl LocalGreeting {
    /// The greeting of an engine.
    pub fn new(epoch: u64, leases_max: u32) -> Self {
        Self {
            magic: U32::new(LOCAL_MAGIC),
            version: U16::new(LOCAL_VERSION),
            reserved: [0; 2],
            epoch: U64::new(epoch),
            leases_max: U32::new(leases_max),
            reserved_20: [0; 4],
        }
    }

    /// The gate for clients. `None`: no engine that speaks this version says so.
    pub fn decode(bytes: &[u8; 24]) -> Option<Self> {
        let greeting: Self = zerocopy::transmute!(*bytes);
        let is_known =
            (greeting.magic.get(), greeting.version.get()) == (LOCAL_MAGIC, LOCAL_VERSION);
        is_known.then_some(greeting)
    }
}

impl LocalRequest {
    /// A request about a lease.
    pub fn new(kind: LocalKind, lease: Lease) -> Self {
        Self { kind: kind as u8, reserved: [0; 7], lease }
    }

    /// The request that lets go of all leases.
    pub fn let_go() -> Self {
        let nothing = Lease { slot: U32::ZERO, generation: U32::ZERO, secret: U64::ZERO };
        Self::new(LocalKind::LetGo, nothing)
    }

    /// The gate for engines. `None`: no request of this version.
    pub fn decode(bytes: &[u8; 24]) -> Option<(LocalKind, Lease)> {
        let request: Self = zerocopy::transmute!(*bytes);
        let kind = LocalKind::try_read_from_bytes(&[request.kind]).ok()?;
        let is_whole = request.reserved == [0; 7]
            && (kind != LocalKind::LetGo || request.lease.as_bytes() == [0; 16]);
        is_whole.then_some((kind, request.lease))
    }
}

impl LocalReply {
    /// An answer.
    pub fn new(kind: LocalKind, status: Status, lease: &Lease) -> Self {
        Self {
            kind: kind as u8,
            status: status as u8,
            reserved: [0; 2],
            slot: lease.slot,
            generation: lease.generation,
            reserved_12: [0; 4],
        }
    }

    /// The gate for clients. `None`: no answer of this version.
    pub fn decode(bytes: &[u8; 16]) -> Option<(LocalKind, Status, Slot, Generation)> {
        let reply: Self = zerocopy::transmute!(*bytes);
        let kind = LocalKind::try_read_from_bytes(&[reply.kind]).ok()?;
        Some((kind, Status::from_u8(reply.status)?, reply.slot.into(), reply.generation.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease {
            slot: U32::new(0x0403_0201),
            generation: U32::new(0x0807_0605),
            secret: U64::new(0x100F_0E0D_0C0B_0A09),
        }
    }

    /// The bytes that `docs/LOCAL.md` shows.
    #[test]
    fn frames_are_as_documented() {
        let text = include_str!("../../docs/LOCAL.md");
        let hex = |bytes: &[u8]| {
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
        };
        for (name, bytes) in [
            ("greeting", LocalGreeting::new(0x1122_3344_5566_7788, 65_536).as_bytes()),
            ("show", LocalRequest::new(LocalKind::Show, lease()).as_bytes()),
            ("take back", LocalRequest::new(LocalKind::TakeBack, lease()).as_bytes()),
            ("let go", LocalRequest::let_go().as_bytes()),
            ("answer", LocalReply::new(LocalKind::Show, Status::Unknown, &lease()).as_bytes()),
        ] {
            assert!(text.contains(&hex(bytes)), "{name}: {}", hex(bytes));
        }
    }

    #[test]
    fn only_whole_frames_pass() {
        let request: [u8; 24] = zerocopy::transmute!(LocalRequest::new(LocalKind::Show, lease()));
        assert_eq!(LocalRequest::decode(&request), Some((LocalKind::Show, lease())));
        for (at, value) in [(0, 0), (0, 4), (1, 1), (7, 9), (0, 3)] {
            let mut other = request;
            other[at] = value;
            assert_eq!(LocalRequest::decode(&other), None, "{at}: {value}");
        }
        let reply: [u8; 16] =
            zerocopy::transmute!(LocalReply::new(LocalKind::TakeBack, Status::Full, &lease()));
        let seen = (LocalKind::TakeBack, Status::Full, lease().slot(), lease().generation());
        assert_eq!(LocalReply::decode(&reply), Some(seen));
        let mut greeting: [u8; 24] = zerocopy::transmute!(LocalGreeting::new(7, 9));
        assert_eq!(LocalGreeting::decode(&greeting).unwrap().epoch.get(), 7);
        greeting[4] = 2;
        assert_eq!(LocalGreeting::decode(&greeting), None);
    }
}
