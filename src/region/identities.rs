//! Where services and instances stand in the indexes: hashes under the key of the region.

use super::{Disturbed, Identity, IndexFull, PublicTables, Region, Right, ServiceNumber};
use crate::wire::{Name, Slot};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

impl PublicTables {
    /// Finds a service by its id.
    ///
    /// # Errors
    /// [`Disturbed`]: the writer moved entries during each try.
    #[inline]
    pub fn find_service(&self, id: u64) -> Result<Option<ServiceNumber>, Disturbed> {
        self.directory_index.find(self.hash(id, &[]), |service| {
            Some(self.directory.get(service.index()).is_some_and(|entry| entry.holds(id)))
        })
    }

    /// Finds an instance by its service and name.
    ///
    /// # Errors
    /// [`Disturbed`]: the writer moved entries during each try.
    #[inline]
    pub fn find_instance(
        &self,
        service: ServiceNumber,
        id: u64,
        name: &Name,
    ) -> Result<Option<Slot>, Disturbed> {
        self.find_slot(self.hash(id, name.bytes()), name, |own| own == service)
    }

    /// Finds an instance by the id of its service and its name.
    ///
    /// # Errors
    /// [`Disturbed`]: the writer moved entries during each try.
    #[inline]
    pub fn find(&self, id: u64, name: &Name) -> Result<Option<Slot>, Disturbed> {
        let is_of = |service: ServiceNumber| {
            self.directory.get(service.index()).is_some_and(|entry| entry.holds(id))
        };
        self.find_slot(self.hash(id, name.bytes()), name, is_of)
    }

    #[inline]
    fn find_slot(
        &self,
        hash: u64,
        name: &Name,
        is_service: impl Fn(ServiceNumber) -> bool,
    ) -> Result<Option<Slot>, Disturbed> {
        self.index.find(hash, |slot| self.records.is_of(slot, name, &is_service))
    }

    /// Where an instance belongs in the index, for whoever looks for many and asks for their cache
    /// lines first.
    #[inline]
    pub fn identity(&self, id: u64, name: &Name) -> Identity {
        let hash = self.hash(id, name.bytes());
        self.index.prefetch(hash);
        Identity::new(hash)
    }

    /// Finds an instance by its service and name, when its place is known.
    ///
    /// # Errors
    /// [`Disturbed`]: the writer moved entries during each try.
    #[inline]
    pub fn find_identity(
        &self,
        identity: &Identity,
        service: ServiceNumber,
        name: &Name,
    ) -> Result<Option<Slot>, Disturbed> {
        self.find_slot(identity.hash(), name, |own| own == service)
    }

    #[inline]
    pub(super) fn hash(&self, id: u64, name: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write_u64(id);
        hasher.write(name);
        hasher.finish()
    }
}

impl Region {
    /// Forgets both indexes, to be filled again from what they lead to.
    pub fn clear_indexes(&self, right: &Right) {
        self.directory_index.clear(right);
        self.index.clear(right);
    }

    /// Adds a service to the directory's index.
    ///
    /// # Errors
    /// [`IndexFull`]: the probe sequence has no room.
    pub fn index_service(
        &self,
        right: &Right,
        id: u64,
        service: ServiceNumber,
    ) -> Result<(), IndexFull> {
        self.directory_index.insert(right, self.hash(id, &[]), service)
    }

    /// Takes a service out of the directory's index.
    pub fn unindex_service(&self, right: &Right, id: u64, service: ServiceNumber) {
        self.directory_index.remove(right, self.hash(id, &[]), service);
    }

    /// Adds an instance to the index.
    ///
    /// # Errors
    /// [`IndexFull`]: the probe sequence has no room.
    pub fn index_instance(
        &self,
        right: &Right,
        id: u64,
        name: &Name,
        slot: Slot,
    ) -> Result<(), IndexFull> {
        self.index.insert(right, self.hash(id, name.bytes()), slot)
    }

    /// Adds an instance to the index, when its place is known.
    ///
    /// # Errors
    /// [`IndexFull`]: the probe sequence has no room.
    pub fn index_identity(
        &self,
        right: &Right,
        identity: &Identity,
        slot: Slot,
    ) -> Result<(), IndexFull> {
        self.index.insert(right, identity.hash(), slot)
    }

    /// Points the identity of one slot to another.
    pub fn reindex_instance(&self, right: &Right, id: u64, name: &Name, from: Slot, to: Slot) {
        self.index.replace(right, self.hash(id, name.bytes()), from, to);
    }

    /// Takes an instance out of the index.
    pub fn unindex_instance(&self, right: &Right, id: u64, name: &Name, slot: Slot) {
        self.index.remove(right, self.hash(id, name.bytes()), slot);
    }
}
