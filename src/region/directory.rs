//! The services: name, revision, and where the list of their slots is.

use super::index::Disturbed;
use super::lists::ListRef;
use super::part::Shared;
use super::record::{is_named, load_name, store_bytes};
use super::right::Right;
use super::seqlock::Sequence;
use super::{PublicTables, Region};
use crate::sync::{AtomicU32, AtomicU64};
use crate::wire::Name;
use std::sync::atomic::Ordering::{Relaxed, Release};
use zerocopy::IntoBytes;

/// One service. Its [`Sequence`] protects this entry, the slot list it points to, and the endpoint
/// lines of its members.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct DirectoryEntry {
    sequence: Sequence,
    /// Members in the slot list: up and suspect.
    listed: AtomicU32,
    id: AtomicU64,
    revision: AtomicU64,
    list_offset: AtomicU32,
    list_order: AtomicU32,
    /// All members, those that are down included.
    total: AtomicU32,
    /// 1 while the entry is a service.
    used: AtomicU32,
    reserved: [AtomicU64; 3],
    name: [AtomicU64; 8],
}

// SAFETY: atomics only.
unsafe impl Shared for DirectoryEntry {}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<DirectoryEntry>() == 128);
    assert!(offset_of!(DirectoryEntry, listed) == 4);
    assert!(offset_of!(DirectoryEntry, id) == 8);
    assert!(offset_of!(DirectoryEntry, revision) == 16);
    assert!(offset_of!(DirectoryEntry, list_offset) == 24);
    assert!(offset_of!(DirectoryEntry, list_order) == 28);
    assert!(offset_of!(DirectoryEntry, total) == 32);
    assert!(offset_of!(DirectoryEntry, used) == 36);
    assert!(offset_of!(DirectoryEntry, name) == 64);
};

/// The numbers of a service, as one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceMeta {
    /// Hash of the name.
    pub id: u64,
    /// Grows by one with every event of the service.
    pub revision: u64,
    /// Members in the slot list.
    pub listed: u32,
    /// Members in any state.
    pub total: u32,
    /// The slot list.
    pub list: ListRef,
}

impl DirectoryEntry {
    /// The lock of this service.
    #[inline]
    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// Whether the entry is the service with this id. To be asked inside the sequence, or again
    /// there.
    #[inline]
    pub fn holds(&self, id: u64) -> bool {
        self.used.load(Relaxed) == 1 && self.id.load(Relaxed) == id
    }

    /// Whether the entry is a service.
    #[inline]
    pub fn is_used(&self) -> bool {
        self.used.load(Relaxed) == 1
    }

    /// The numbers. To be read inside the sequence.
    #[inline]
    pub fn meta(&self) -> ServiceMeta {
        ServiceMeta {
            id: self.id.load(Relaxed),
            revision: self.revision.load(Relaxed),
            listed: self.listed.load(Relaxed),
            total: self.total.load(Relaxed),
            list: ListRef {
                offset: self.list_offset.load(Relaxed),
                order: self.list_order.load(Relaxed),
            },
        }
    }

    /// The name. To be read inside the sequence.
    #[inline]
    pub fn name(&self) -> Name {
        load_name(&self.name)
    }

    /// Whether the entry is the service with this id and this name, as its words lie in memory. To
    /// be asked inside the sequence.
    #[inline]
    pub(super) fn is_of(&self, id: u64, name: &[u64; 8]) -> bool {
        self.holds(id) && is_named(&self.name, name)
    }

    /// Replaces the numbers. To be called inside the sequence.
    pub fn set_meta(&self, _: &Right, meta: ServiceMeta) {
        self.id.store(meta.id, Relaxed);
        self.revision.store(meta.revision, Relaxed);
        self.listed.store(meta.listed, Relaxed);
        self.total.store(meta.total, Relaxed);
        self.list_offset.store(meta.list.offset, Relaxed);
        self.list_order.store(meta.list.order, Relaxed);
    }

    /// Makes the entry a service, or frees it. To be called inside the sequence.
    pub fn set_name(&self, _: &Right, name: Option<&Name>) {
        // Whoever dies between these leaves no service, rather than one without its name.
        self.used.store(0, Release);
        store_bytes(&self.name, name.unwrap_or(&Name::EMPTY).as_bytes());
        self.used.store(u32::from(name.is_some()), Release);
    }
}

impl PublicTables {
    /// Revision of the directory, and how many services have instances.
    ///
    /// # Errors
    /// [`Disturbed`]: the writer changed it during each try.
    #[inline]
    pub fn service_count(&self) -> Result<(u64, u32), Disturbed> {
        let header = &self.header[0];
        header
            .sequence
            .read(|| (header.directory_revision.load(Relaxed), header.services.load(Relaxed)))
            .ok_or(Disturbed)
    }
}

impl Region {
    /// A service came or went.
    pub fn set_service_count(&self, right: &Right, services: u32) {
        let header = &self.header[0];
        header.sequence.write(right, || {
            header.services.store(services, Relaxed);
            header.directory_revision.store(header.directory_revision.load(Relaxed) + 1, Relaxed);
        });
    }
}
