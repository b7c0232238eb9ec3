//! The services there are, in pages.

use super::Name;
use crate::limits::{SERVICE_BYTES, SERVICES_REPLY_BYTES};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The body of a services request.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Services {
    /// From a hello reply, or 0.
    pub cookie: U64,
    /// 0 at first, then from the reply before.
    pub cursor: U32,
    /// Most entries wanted; 0: as many as fit.
    pub limit: U16,
    /// Zeros in this version of the format.
    pub reserved: [u8; 2],
}

/// The start of the body of a services reply; [`ServiceEntry`] entries follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ServicesHead {
    /// Changes whenever a service comes or goes.
    pub version: U64,
    /// Where the next page starts; 0 when this was the last.
    pub cursor: U32,
    /// Services with at least one instance.
    pub services: U32,
}

/// A service, as a page of services tells it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ServiceEntry {
    /// [`super::service_id`] of its name.
    pub id: U64,
    /// Version of its list.
    pub version: U64,
    /// Instances that discovery answers: up or suspect.
    pub listed: U32,
    /// All instances, those that are down included.
    pub total: U32,
    /// The name that its instances registered under.
    pub name: Name,
}

const _: () = {
    assert!(size_of::<Services>() == 16);
    assert!(std::mem::offset_of!(Services, cursor) == 8);
    assert!(std::mem::offset_of!(Services, limit) == 12);
    assert!(size_of::<ServicesHead>() == 16 && SERVICES_REPLY_BYTES == 16);
    assert!(std::mem::offset_of!(ServicesHead, cursor) == 8);
    assert!(std::mem::offset_of!(ServicesHead, services) == 12);
    assert!(size_of::<ServiceEntry>() == 88 && SERVICE_BYTES == 88);
    assert!(std::mem::offset_of!(ServiceEntry, version) == 8);
    assert!(std::mem::offset_of!(ServiceEntry, listed) == 16);
    assert!(std::mem::offset_of!(ServiceEntry, total) == 20);
    assert!(std::mem::offset_of!(ServiceEntry, name) == 24);
};
